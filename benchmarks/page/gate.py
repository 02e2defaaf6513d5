"""In front of every route: whom a request may be addressed to and come from, how large it may be, which headers all
answers carry. Refusals are JSON, {"error": "sentence"}.
"""

import asyncio
import time
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 2**20
DRAIN_BYTES = 2**28  # of what is too large: a client that is still sending hears no refusal
READ_S = 30.0  # for a whole body to come in

HEADERS = {
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self' 'wasm-unsafe-eval'",
            "worker-src 'self'",
            "connect-src 'self'",
            "img-src 'self' blob: data:",
            "media-src blob:",
            "style-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    # Together they isolate the page, without which a browser gives no shared memory and so no WASM threads.
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), screen-wake-lock=(self), microphone=(), geolocation=()",
}


class Refused(Exception):
    """An answer that says no; `more` stands in it beside the sentence."""

    def __init__(self, status: int, sentence: str, **more: Any) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.more = status, sentence, more

    def response(self) -> JSONResponse:
        return JSONResponse({"error": self.sentence, **self.more}, self.status)


class Gate:
    """`hosts`: names that a request may be addressed to. A page from anywhere may point its own name at this machine
    and then read what this server says (DNS rebinding); its requests still carry that name."""

    def __init__(self, app: ASGIApp, scheme: str, hosts: Collection[str], port: int) -> None:
        self._app, self._scheme, self._port = app, scheme, port
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = message.get("headers", [])
                ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                if not any(name.lower() == b"cache-control" for name, _ in given):
                    ours.append((b"cache-control", b"no-store"))
                message["headers"] = [*given, *ours]
            await send(message)

        try:
            self._check(scope["method"], Headers(scope=scope))
        except Refused as refused:
            await refused.response()(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)

    def _check(self, method: str, headers: Headers) -> None:
        if len(headers.getlist("host")) != 1 or _host(headers["host"]) not in self._hosts:
            raise Refused(421, "this server doesn't answer to that name; open the link as it was printed")
        if method in ("GET", "HEAD"):
            return
        origin = headers.get("origin")
        if origin is not None and not self._is_ours(origin):
            raise Refused(403, "the request comes from another site's page")
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise Refused(403, "the request comes from another site's page")

    def _is_ours(self, origin: str) -> bool:
        try:
            found = urlsplit(origin)
            port = found.port or {"http": 80, "https": 443}.get(found.scheme)
            return found.scheme == self._scheme and found.hostname in self._hosts and port == self._port
        except ValueError:
            return False


async def body(request: Request) -> bytes:
    """The whole of a JSON request, or a refusal; never more than `MAX_BODY` of it is kept."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # Also what keeps pages of other sites out: a browser asks before it sends JSON elsewhere, and gets no yes.
        raise Refused(415, "the request must say Content-Type: application/json")
    try:
        return await asyncio.wait_for(_read(request), READ_S)
    except asyncio.TimeoutError:
        raise Refused(408, f"the request's body did not come within {READ_S:.0f} s") from None


async def _read(request: Request) -> bytes:
    found = bytearray()
    length = request.headers.get("content-length", "")
    too_large = length.isdigit() and int(length) > MAX_BODY
    dropped, until = 0, time.monotonic() + READ_S / 2
    async for chunk in request.stream():
        too_large = too_large or len(found) + len(chunk) > MAX_BODY
        if not too_large:
            found += chunk
        elif (dropped := dropped + len(chunk)) > DRAIN_BYTES or time.monotonic() > until:
            break
    if too_large:
        raise Refused(413, f"the request is larger than {MAX_BODY // 2**20} MiB; send less at a time")
    return bytes(found)


def _host(header: str) -> str | None:
    """The name in a Host header, without port and brackets."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None
