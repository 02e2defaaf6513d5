"""What stands in front of every route of a server: whom a request may be addressed to, and headers on every answer.

In: the routes. Out: the same with a gate before them. The server of `serve` and that of a measured page have one each.
"""

from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from masters_edge.serve.refusals import Refused


class Gate:
    """A server says in `check` what it refuses, in `refusal` how, and in `HEADERS` what stands on every answer.

    `hosts`: names that a request may be addressed to, None for any. A page from anywhere may point its own name at this
    machine and then read what this server says (DNS rebinding); its requests still carry that name.
    """

    HEADERS: Mapping[str, str] = {}

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self._app = app
        self.hosts = None if hosts is None else {host.lower() for host in hosts}

    def check(self, method: str, headers: Headers) -> None:
        """Raise Refused for a request that may not come in."""
        raise NotImplementedError

    def refusal(self, refused: Refused) -> Response:
        """The answer that says no."""
        raise NotImplementedError

    def is_ours(self, header: str) -> bool:
        """Whether a Host header has one of the names, whatever its port."""
        return self.hosts is None or _host(header) in self.hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = message.get("headers", [])
                ours = [(name.encode(), value.encode()) for name, value in self.HEADERS.items()]
                if not any(name.lower() == b"cache-control" for name, _ in given):
                    ours.append((b"cache-control", b"no-store"))
                message["headers"] = [*given, *ours]
            await send(message)

        try:
            self.check(scope["method"], Headers(scope=scope))
        except Refused as refused:
            await self.refusal(refused)(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)


def must_be_json(request: Request) -> None:
    """Raise Refused unless the body comes as JSON.

    It is also what keeps pages of other sites out: a browser asks before it sends JSON elsewhere, and gets no yes.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "the request must say Content-Type: application/json")


def _host(header: str) -> str | None:
    """The name in a Host header, without port and brackets."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None
