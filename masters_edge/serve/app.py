"""The routes: `/` the page, `/v1/models`, `/v1/chat/completions`, `/health`; who may ask, and how much at once.

Every refusal is OpenAI's error object, so that any client shows its sentence.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator, Collection
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from masters_edge.runtime import Answer
from masters_edge.serve import requests
from masters_edge.serve.gate import Gate, must_be_json
from masters_edge.serve.page import Page
from masters_edge.serve.question_queue import PendingAnswer, QuestionQueue
from masters_edge.serve.refusals import Refused, openai_error
from masters_edge.serve.replies import Reply, sse
from masters_edge.serve.stop import Cutter

MIB = 2**20
MAX_BODY = 32 * MIB  # a picture of 24 MB in base64
MAX_BODIES = 8 * MAX_BODY  # of all requests that are being read or answered
READ_S = 120.0  # for a whole body to come in


def make_app(
    queue: QuestionQueue,
    model: dict[str, Any],
    stop_ids: frozenset[int],
    api_key: str | None,
    hosts: Collection[str] | None,
) -> ASGIApp:
    """The whole server but its socket.

    `model`: what GET /v1/models says of the one model; its `id` is the name to ask for. `hosts`: names that a request
    may be addressed to, None for any.
    """
    serving = _Serving(queue, model, stop_ids, api_key)
    page = Page()
    app = Starlette(
        routes=[
            Route("/", page.respond),
            Route("/health", serving.health),
            Route("/v1/models", serving.models),
            Route("/v1/models/{name:path}", serving.one_model),
            Route("/v1/chat/completions", serving.chat, methods=["POST"]),
        ],
        exception_handlers={
            Refused: lambda request, error: _refuse(error),
            HTTPException: lambda request, error: _refuse(_unknown(request, error)),
            ClientDisconnect: lambda request, error: Response(status_code=499),  # reaches nobody
            Exception: lambda request, error: _refuse(Refused(500, "the server made a mistake; look at its terminal")),
        },
    )
    return _Gate(app, hosts)


class _Serving:
    def __init__(
        self, queue: QuestionQueue, model: dict[str, Any], stop_ids: frozenset[int], api_key: str | None
    ) -> None:
        self._queue, self._model, self._stop_ids = queue, model, stop_ids
        self._key = api_key.encode() if api_key else None
        self._room = MAX_BODIES

    async def health(self, request: Request) -> Response:
        """Whether questions are answered, without a key, as llama-server and vLLM say it."""
        if trouble := self._queue.troubled():
            raise Refused(503, trouble)
        return JSONResponse({"status": "ok"})

    async def models(self, request: Request) -> Response:
        self._let_in(request)
        return JSONResponse({"object": "list", "data": [self._model]})

    async def one_model(self, request: Request) -> Response:
        self._let_in(request)
        self._check_name(request.path_params["name"])
        return JSONResponse(self._model)

    async def chat(self, request: Request) -> Response:
        """Answer one question, whole or as a stream."""
        self._let_in(request)
        must_be_json(request)
        body = bytearray()
        try:
            await asyncio.wait_for(self._read(request, body), READ_S)
            return await self._answer(request, bytes(body))
        except asyncio.TimeoutError:
            raise Refused(408, f"the request's body did not come within {READ_S:.0f} s") from None
        finally:
            self._room += len(body)

    async def _read(self, request: Request, body: bytearray) -> None:
        """Fill `body`, and take as much of the room for all bodies."""
        refused = None
        dropped = 0
        async for chunk in request.stream():
            if refused is None and len(body) + len(chunk) > MAX_BODY:
                refused = Refused(413, f"the request is larger than {MAX_BODY // MIB} MiB; send a smaller picture")
            elif refused is None and len(chunk) > self._room:
                refused = Refused(503, "too many large requests at once; ask again in a moment")
            if refused is None:
                self._room -= len(chunk)
                body += chunk
            elif (dropped := dropped + len(chunk)) > MAX_BODIES:
                break  # for a while it was read on: a client that is still sending hears no refusal
        if refused is not None:
            raise refused

    async def _answer(self, request: Request, body: bytes) -> Response:
        asked = await asyncio.to_thread(requests.read, body)
        self._check_name(asked.model)
        pending = self._queue.take(asked)
        reply, cutter = Reply(self._model["id"], self._stop_ids), Cutter(asked.stops)
        watch = asyncio.ensure_future(_until_gone(request))
        try:
            event = await _first(pending, watch)
            if asked.stream:
                return _Events(pending, reply, cutter, event)
            text = ""
            while isinstance(event, str):
                text += cutter.feed(event)
                event = await _first(pending, watch)
            text += cutter.finish()
            return JSONResponse(reply.whole(text, event, cutter.found))
        except BaseException:
            pending.cancel()
            raise
        finally:
            watch.cancel()

    def _let_in(self, request: Request) -> None:
        if self._key is None:
            return
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self._key):
            raise Refused(
                401, "the API key is missing or wrong; send it as Authorization: Bearer KEY", code="invalid_api_key"
            )

    def _check_name(self, name: str) -> None:
        if name != self._model["id"]:
            known = self._model["id"]
            raise Refused(
                404, f"there is no model {name!r} here; ask for {known!r}", param="model", code="model_not_found"
            )


class _Events(StreamingResponse):
    """An answer as server-sent events; it is given up when whoever asked goes away."""

    def __init__(self, pending: PendingAnswer, reply: Reply, cutter: Cutter, event: str | Answer) -> None:
        self._pending, self._reply, self._cutter = pending, reply, cutter
        super().__init__(self._events(event), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._pending.cancel()

    async def _events(self, event: str | Answer) -> AsyncIterator[bytes]:
        yield sse(self._reply.first())
        try:
            while isinstance(event, str):
                if piece := self._cutter.feed(event):
                    yield sse(self._reply.piece(piece))
                event = await self._pending.next()
        except Refused as refused:  # the status is sent already
            yield sse(openai_error(refused))
            return
        if piece := self._cutter.finish():
            yield sse(self._reply.piece(piece))
        yield sse(self._reply.last(event, self._cutter.found))
        if self._pending.asked.include_usage:
            yield sse(self._reply.usage(event))
        yield sse("[DONE]")


class _Gate(Gate):
    HEADERS = {
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
    }

    def check(self, method: str, headers: Headers) -> None:
        if self.hosts is not None and not self.is_ours(headers.get("host", "")):
            raise Refused(421, f"this server answers to {' or '.join(sorted(self.hosts))} alone")

    def refusal(self, refused: Refused) -> Response:
        return _refuse(refused)


async def _first(pending: PendingAnswer, watch: "asyncio.Future[None]") -> str | Answer:
    """The answer's next event, or ClientDisconnect where whoever asked goes before it comes."""
    event = asyncio.ensure_future(pending.next())
    try:
        both: list[asyncio.Future[Any]] = [event, watch]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not event.done():
            raise ClientDisconnect
        return event.result()
    finally:
        event.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refuse(refused: Refused) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
    if refused.status == 503:
        headers["Retry-After"] = "1"
    return JSONResponse(openai_error(refused), refused.status, headers)


def _unknown(request: Request, error: HTTPException) -> Refused:
    if error.status_code == 405:
        return Refused(405, f"{request.url.path} does not take {request.method}")
    known = "GET /v1/models, POST /v1/chat/completions, GET /health, and the page at /"
    return Refused(error.status_code, f"there is nothing at {request.url.path}; this server has {known}")
