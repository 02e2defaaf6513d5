"""OpenAI-compatible servers, as a judge and an engine ask them: bounded in time and size, and left at once on Ctrl-C.

In: an address. Out: openai's own client, whose timeout is for a whole answer (the library's is for each read of it, so
that a server which drips holds on for ever), a thread to use it in, and what a chat completion says, of whatever shape.
"""

import asyncio
import importlib.util
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future, wait
from types import ModuleType
from typing import Any, TypeVar

from masters_edge.common.errors import UserError
from masters_edge.common.plain import line

MAX_ANSWER = 16 * 2**20  # bytes; a response of 8,192 tokens with all their ids and text has less than one
_PATIENCE_S = 1.0  # for requests under way to end once they are given up

T = TypeVar("T")


class Unreadable(ValueError):
    """An answer that is not read to its end, nor asked for again."""


def openai() -> ModuleType:
    """The client package, or a UserError that says how to get it."""
    if importlib.util.find_spec("openai") is None:
        raise UserError("an endpoint needs the openai package, which is missing: pip install 'masters-edge[endpoint]'")
    import openai

    return openai


def client(url: str, api_key: str, timeout_s: float, retries: int) -> Any:
    """An `AsyncOpenAI`: each try of a request has `timeout_s` from its first byte to the answer's last.

    Raises:
        UserError: the url can't be one.
    """
    package = openai()
    import httpx2

    try:
        httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise UserError(f"the server's url {url!r} is none ({error}); give it as http://localhost:8000/v1") from None

    class Limited(httpx2.AsyncByteStream):
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for chunk in self._stream:
                size += len(chunk)
                if size > MAX_ANSWER:
                    raise Unreadable(f"it sends more than {MAX_ANSWER // 2**20} MiB for an answer")
                yield chunk

        async def aclose(self) -> None:
            await self._stream.aclose()

    class Bounded(package.DefaultAsyncHttpxClient):  # type: ignore[name-defined]
        async def send(self, request: Any, **options: Any) -> Any:
            try:
                return await asyncio.wait_for(super().send(request, **options), timeout_s)
            except asyncio.TimeoutError:
                raise httpx2.ReadTimeout(f"no whole answer within {timeout_s:g} s", request=request) from None

    async def uncompressed(request: Any) -> None:
        request.headers["Accept-Encoding"] = "identity"

    async def bounded(response: Any) -> None:
        if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise Unreadable("it sends compressed what was asked for as it is")
        response.stream = Limited(response.stream)

    hooks = {"request": [uncompressed], "response": [bounded]}
    own = Bounded(timeout=timeout_s, event_hooks=hooks)
    return package.AsyncOpenAI(base_url=url, api_key=api_key, timeout=timeout_s, max_retries=retries, http_client=own)


class Background:
    """An event loop in a thread of its own. Whoever waits for it hears Ctrl-C at once, and may have a loop already (a
    notebook); an answer under way ends with it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="asks a server", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run it there; cancelling the future ends it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it there, and wait for what it returns or raises."""
        future = self.start(coroutine)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """End what is under way, then do `last`; may be called twice."""
        if self._loop.is_closed():
            return
        wait([self.start(_end_all(last))], _PATIENCE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_S)
        if not self._thread.is_alive():
            self._loop.close()


async def _end_all(last: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:  # those that are ending already are left alone: cancelled twice, they would leave their own tasks behind
        _, left = await asyncio.wait(left, timeout=_PATIENCE_S / 4)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    if last is not None:
        await last()


def first_choice(completion: Any) -> Any:
    """The one choice of a chat completion; raises ValueError where it has none, or none with a message."""
    try:
        choice = completion.choices[0]
        if choice.message is not None:
            return choice
    except (AttributeError, IndexError, KeyError, TypeError):
        pass
    raise ValueError(f"no chat completion: {short(completion)}")


def text_of(choice: Any) -> str:
    """What its message says, "" for nothing; raises ValueError for content that is no text or can't be written."""
    content = getattr(choice.message, "content", None)
    if content is None:
        return ""
    if not isinstance(content, str):
        raise ValueError(f"its content is no text but {short(content)}")
    content.encode()  # UnicodeEncodeError, half of a surrogate pair, is a ValueError
    return content


def short(found: Any, most: int = 300) -> str:
    """What a server sent, for a sentence: one line, only what can be shown, at most `most` characters."""
    try:
        return line(str(found)[: 10 * most], most)
    except RecursionError:
        return f"a {type(found).__name__} of too many levels"
