"""The gate before the page's routes: whom a request may come from, how large it may be, which headers all answers
carry. Refusals are JSON, {"error": "sentence"}.
"""

import asyncio
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from masters_edge.serve.gate import Gate, must_be_json
from masters_edge.serve.refusals import Refused

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


class PageGate(Gate):
    HEADERS = HEADERS

    def __init__(self, app: ASGIApp, scheme: str, hosts: Collection[str], port: int) -> None:
        super().__init__(app, hosts)
        self._scheme, self._port = scheme, port

    def check(self, method: str, headers: Headers) -> None:
        if len(headers.getlist("host")) != 1 or not self.is_ours(headers["host"]):
            raise Refused(421, "this server doesn't answer to that name; open the link as it was printed")
        if method in ("GET", "HEAD"):
            return
        origin = headers.get("origin")
        if origin is not None and not self._is_our_page(origin):
            raise Refused(403, "the request comes from another site's page")
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise Refused(403, "the request comes from another site's page")

    def refusal(self, refused: Refused) -> JSONResponse:
        return refusal(refused)

    def _is_our_page(self, origin: str) -> bool:
        try:
            found = urlsplit(origin)
            port = found.port or {"http": 80, "https": 443}.get(found.scheme)
            return found.scheme == self._scheme and found.hostname in (self.hosts or ()) and port == self._port
        except ValueError:
            return False


def refusal(refused: Refused) -> JSONResponse:
    """{"error": sentence}, and what stands beside the sentence."""
    return JSONResponse({"error": refused.message, **refused.more}, refused.status)


async def body(request: Request) -> bytes:
    """The whole of a JSON request, or a refusal; never more than `MAX_BODY` of it is kept."""
    must_be_json(request)
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
