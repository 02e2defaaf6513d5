"""The routes of the page's server, behind its gate; whoever has no cookie gets the page itself and nothing else.

GET  /                          web/index.html, in which {lock} and {assets} stand for the locks of the next two
GET  /web/<lock>/<file>         the page's own files; <lock> is a hash of them, so that they may be kept for ever
GET  /assets/<lock>/<file>      what npm has (`assets.py`)
POST /api/claim                 a device opens the link
GET  /api/state?after=N         what there is to do, as soon as it is other than N
GET  /api/questions, /images/<job>/<k>, /bundle/<sha256>/<file>
POST /api/progress, /api/raw, /api/stop, /api/failed
"""

import asyncio
import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

import masters_edge.serve
from masters_edge.benchmarks.page import assets, messages
from masters_edge.benchmarks.page.desk import Desk
from masters_edge.benchmarks.page.gate import PageGate, body, refusal
from masters_edge.common.errors import UserError
from masters_edge.serve.refusals import Refused

WEB = Path(__file__).resolve().parent / "web"
PICTURE = Path(masters_edge.serve.__file__).resolve().parent / "picture.js"  # one chooser for both pages
POLL_S = 10.0
WRONG_TOKEN_S = 1.0  # that a wrong token waits for its answer
_FOR_EVER = {"cache-control": "public, max-age=31536000, immutable"}
_KINDS = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".md": "text/plain",
    ".txt": "text/plain",
}

Sent = TypeVar("Sent", bound=BaseModel)


def make_app(desk: Desk, scheme: str, hosts: Collection[str], port: int) -> ASGIApp:
    """The whole server but its socket. `hosts`: names and addresses that a request may be addressed to."""
    files, api = _Files(), _Api(desk, secure=scheme == "https", port=port)
    app = Starlette(
        routes=[
            Route("/", files.index),
            Route("/web/{lock}/{file:path}", files.web),
            Route("/assets/{lock}/{file:path}", files.asset),
            Route("/api/claim", api.claim, methods=["POST"]),
            Route("/api/state", api.state),
            Route("/api/questions", api.questions),
            Route("/images/{job}/{number}", api.image),
            Route("/bundle/{sha256}/{file:path}", api.bundle),
            Route("/api/progress", api.progress, methods=["POST"]),
            Route("/api/raw", api.raw, methods=["POST"]),
            Route("/api/stop", api.stop, methods=["POST"]),
            Route("/api/failed", api.failed, methods=["POST"]),
        ],
        exception_handlers={
            Refused: lambda request, error: refusal(error),
            UserError: lambda request, error: refusal(Refused(404, str(error))),
            HTTPException: lambda request, error: refusal(_unknown(error)),
            ClientDisconnect: lambda request, error: Response(status_code=499),  # reaches nobody
            Exception: lambda request, error: refusal(
                Refused(500, "the computer made a mistake; look at its terminal")
            ),
        },
    )
    app.router.redirect_slashes = False
    return PageGate(app, scheme, hosts, port)


class _Files:
    """The page and what npm has, each a table of names made once."""

    def __init__(self) -> None:
        found = {path.relative_to(WEB).as_posix(): path for path in sorted(WEB.rglob("*")) if path.suffix in _KINDS}
        found |= {PICTURE.name: PICTURE}
        self._web = {name: path.read_bytes() for name, path in found.items() if path.is_file()}
        digest = hashlib.sha256()
        for name, content in self._web.items():
            digest.update(name.encode() + b"\0" + len(content).to_bytes(8, "big") + content)
        self._web_lock, self._assets_lock = digest.hexdigest()[:12], assets.lock()
        self._assets = assets.files()
        html = (WEB / "index.html").read_text(encoding="utf-8")
        self._index = html.replace("{lock}", self._web_lock).replace("{assets}", self._assets_lock)

    async def index(self, request: Request) -> Response:
        return HTMLResponse(self._index)

    async def web(self, request: Request) -> Response:
        name = request.path_params["file"]
        if request.path_params["lock"] != self._web_lock or name not in self._web:
            raise _nothing()
        return Response(self._web[name], media_type=_kind(name), headers=_FOR_EVER)

    async def asset(self, request: Request) -> Response:
        name = request.path_params["file"]
        if request.path_params["lock"] != self._assets_lock or name not in self._assets:
            raise _nothing()
        return FileResponse(self._assets[name], media_type=_kind(name), headers=_FOR_EVER)


class _Api:
    def __init__(self, desk: Desk, secure: bool, port: int) -> None:
        self._desk, self._secure = desk, secure
        # Cookies don't tell ports apart: two servers of one machine would take each other's.
        self._name = f"{'__Host-' if secure else ''}masters-edge-{port}"

    async def claim(self, request: Request) -> Response:
        """Let the first device with the token in."""
        sent = await _sent(request, messages.Claim)
        try:
            cookie = self._desk.claim(sent.token, request.cookies.get(self._name), sent.facts)
        except Refused as refused:
            if refused.status == 403:
                await asyncio.sleep(WRONG_TOKEN_S)
            raise
        response = JSONResponse({"device": self._desk.device_name or ""})
        response.set_cookie(self._name, cookie, path="/", secure=self._secure, httponly=True, samesite="strict")
        return response

    async def state(self, request: Request) -> Response:
        """At once where it is other than what the page has, else when it changes, at the latest after `POLL_S`."""
        self._let_in(request)
        after = _number(request, "after", -1)
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        until = loop.time() + POLL_S
        with self._desk.listening(lambda: loop.call_soon_threadsafe(changed.set)):
            while True:
                changed.clear()
                found = await run_in_threadpool(self._desk.state)
                if found["n"] != after or self._desk.closed or loop.time() >= until:
                    break
                try:
                    await asyncio.wait_for(changed.wait(), until - loop.time())
                except asyncio.TimeoutError:
                    continue
        return _State(found, self._desk)

    async def questions(self, request: Request) -> Response:
        self._let_in(request)
        record = self._desk.record(request.query_params.get("job", ""))
        start, count = _number(request, "from", 0), _number(request, "count", messages.MAX_QUESTIONS)
        if start < 0 or not 1 <= count <= messages.MAX_QUESTIONS:
            raise Refused(422, f"from must be 0 or more, and count 1 to {messages.MAX_QUESTIONS}")
        return JSONResponse({"questions": record.handout.asked_from(start, count)})

    async def image(self, request: Request) -> Response:
        self._let_in(request)
        number = request.path_params["number"]
        record = self._desk.record(request.path_params["job"])
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise _nothing()
        found = await run_in_threadpool(record.handout.picture, int(number))
        if found is None:
            raise _nothing()
        return Response(found[0], media_type=found[1])

    async def bundle(self, request: Request) -> Response:
        """A file of the bundle that is being measured, or the range of it that is asked for."""
        self._let_in(request)
        handout = self._desk.handout(request.path_params["sha256"])
        file = None if handout is None else await run_in_threadpool(handout.file, request.path_params["file"])
        if file is None:
            raise _nothing()
        return FileResponse(file, media_type="application/octet-stream")

    async def progress(self, request: Request) -> Response:
        self._let_in(request)
        sent = await _sent(request, messages.Progress)
        await run_in_threadpool(self._desk.progress, sent)
        return JSONResponse({})

    async def raw(self, request: Request) -> Response:
        self._let_in(request)
        sent = await _sent(request, messages.RAW)
        return JSONResponse(await run_in_threadpool(self._desk.take, sent))

    async def stop(self, request: Request) -> Response:
        self._let_in(request)
        self._desk.stop((await _sent(request, messages.Stop)).job)
        return JSONResponse({})

    async def failed(self, request: Request) -> Response:
        self._let_in(request)
        sent = await _sent(request, messages.Failed)
        self._desk.fail(sent.job, sent.message)
        return JSONResponse({})

    def _let_in(self, request: Request) -> None:
        self._desk.let_in(request.cookies.get(self._name))


class _State(JSONResponse):
    """Remembers, once it is sent, that the page has heard of the end."""

    def __init__(self, found: dict[str, object], desk: Desk) -> None:
        super().__init__(found)
        if found["phase"] == "ended":
            self.background = BackgroundTask(desk.said_farewell)


async def _sent(request: Request, model: type[Sent] | TypeAdapter[Sent]) -> Sent:
    """The request's body, checked."""
    content = await body(request)
    try:
        if isinstance(model, TypeAdapter):
            return model.validate_json(content)
        return model.model_validate_json(content)
    except ValidationError as error:
        raise Refused(422, messages.problem(error)) from None


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.removeprefix("-").isdigit() or not text.isascii() or len(text) > 12:
        raise Refused(422, f"{name} must be a whole number")
    return int(text)


def _kind(name: str) -> str:
    return _KINDS.get(Path(name).suffix, "application/octet-stream")


def _nothing() -> Refused:
    return Refused(404, "there is nothing at this address")


def _unknown(error: HTTPException) -> Refused:
    if error.status_code == 405:
        return Refused(405, "this address takes another method")
    return Refused(error.status_code, "there is nothing at this address")
