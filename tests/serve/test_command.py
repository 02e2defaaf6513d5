"""`masters-edge serve` as a person meets it: what it says, how it ends, what it can't do; and a full line."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from masters_edge.common.errors import UserError
from masters_edge.runtime import Student
from masters_edge.serve import command, question_queue, requests
from masters_edge.serve.app import make_app
from masters_edge.serve.question_queue import QuestionQueue
from masters_edge.serve.refusals import Refused
from tests import tiny
from tests.serve.server import QUESTION, messages, serving


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(bundle: Path, sent: int) -> None:
    environment = {**os.environ, "MASTERS_EDGE_API_KEY": "sesame"}
    with serving(bundle, environment=environment) as server:
        status, said = server.stop(sent)
    assert (status, said) == (0, "stopped\n")


def test_a_taken_port_is_said_in_one_sentence(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        started = [sys.executable, "-m", "masters_edge", "serve", str(bundle), "--port", port]
        done = subprocess.run(started, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert f"port {port} of 127.0.0.1 is in use; choose another with --port" in done.stderr
    assert done.stderr.strip().count("\n") == 0 and not done.stdout


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"host": "no.such.invalid"}, "there is no address 'no.such.invalid'"),
        ({"host": "198.51.100.7"}, "can't listen at 198.51.100.7"),
        ({"bundle": Path(__file__).parent}, "is no bundle"),
        ({"backend": "none"}, "there is no backend 'none'"),
        ({"threads": 0}, "threads is 0"),
        ({"api_key": " "}, "the API key is empty"),
    ],
)
def test_mistakes(bundle: Path, changed: dict[str, Any], sentence: str) -> None:
    options = dict(bundle=bundle, host="127.0.0.1", port=0, threads=1, backend="auto", api_key=None)
    with pytest.raises(UserError, match=sentence):
        command.serve(**{**options, **changed})


def test_needs_no_torch(bundle: Path) -> None:
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None);"
        "import masters_edge.serve.command, masters_edge.serve.app"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    absent = "import sys; sys.modules['uvicorn'] = None; sys.argv = ['masters-edge', 'serve', 'x'];"
    code = f"{absent} from masters_edge.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "pip install 'masters-edge[serve]'" in done.stderr


class _Held:
    """A student that answers nothing before it is let go."""

    def __init__(self, student: Student) -> None:
        self.student, self.go = student, threading.Event()

    def check_question(self, question: str) -> None:
        self.student.check_question(question)

    def answer(self, *arguments, **named):
        self.go.wait(30)
        return self.student.answer(*arguments, **named)


class _Panic(BaseException):
    """As native libraries raise it: no Exception."""


class _Panicking(_Held):
    """A student that dies of the question "die"."""

    def answer(self, picture, question, *arguments, **named):
        if question == "die":
            raise _Panic("index out of bounds")
        return self.student.answer(picture, question, *arguments, **named)


async def _answered(queue: QuestionQueue, question: str) -> str:
    body = json.dumps({"model": "m", "messages": messages(tiny.picture(), question)})
    pending = queue.take(requests.read(body.encode()))
    while isinstance(event := await pending.next(), str):
        pass
    return event.text


def test_a_question_that_kills_fails_alone(student: Student) -> None:
    async def ask() -> None:
        queue = QuestionQueue(_Panicking(student))  # type: ignore[arg-type]
        for _ in range(2):
            with pytest.raises(Refused, match="failed to answer ._Panic: index out of bounds") as failed:
                await asyncio.wait_for(_answered(queue, "die"), 10)
            assert failed.value.status == 500 and queue.troubled() is None
            assert await asyncio.wait_for(_answered(queue, QUESTION), 30)
        assert queue.close() and "stopped" in str(queue.troubled())

    asyncio.run(ask())


def test_a_thread_that_dies_starts_again(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        queue = QuestionQueue(student)
        with monkeypatch.context() as broken:
            broken.setattr(queue, "_answer", lambda pending: exec("raise SystemExit(1)"))
            with pytest.raises(Refused, match="failed to answer .SystemExit") as failed:
                await asyncio.wait_for(_answered(queue, QUESTION), 10)
        assert failed.value.status == 500
        assert await asyncio.wait_for(_answered(queue, QUESTION), 30)
        assert queue.close()

    asyncio.run(ask())


def test_health_tells_of_a_student_that_does_not_come_back(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(question_queue, "ANSWER_S", 0.2)

    async def ask() -> None:
        held = _Held(student)
        queue = QuestionQueue(held)  # type: ignore[arg-type]
        app = make_app(queue, {"id": "m"}, frozenset(), None, None)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
            assert (await client.get("/health")).status_code == 200
            with pytest.raises(Refused, match="no answer within"):
                await _answered(queue, QUESTION)
            await asyncio.sleep(0.3)  # it was taken up somewhat later than it was asked
            stuck = await client.get("/health")
            assert stuck.status_code == 503 and "doesn't come back" in stuck.json()["error"]["message"]
            with pytest.raises(Refused, match="doesn't come back"):
                await _answered(queue, QUESTION)
            held.go.set()
            for _ in range(100):
                if (await client.get("/health")).status_code == 200:
                    break
                await asyncio.sleep(0.05)
            else:
                raise AssertionError("it came back, and health didn't say so")
        assert queue.close()

    asyncio.run(ask())


def test_a_full_line_and_a_stopping_server(student: Student) -> None:
    asked = requests.read(json.dumps({"model": "m", "messages": messages(tiny.picture())}).encode())

    async def ask() -> None:
        held = _Held(student)
        queue = QuestionQueue(held, max_waiting=2)  # type: ignore[arg-type]
        first = queue.take(asked)
        while not queue._current:
            await asyncio.sleep(0.01)
        waiting = [queue.take(asked), queue.take(asked)]
        with pytest.raises(Refused, match="2 questions are waiting already") as full:
            queue.take(asked)
        assert full.value.status == 503
        waiting[0].cancel()  # whoever goes leaves a place
        last = queue.take(asked)
        held.go.set()
        texts = []
        for pending in (first, waiting[1], last):
            while isinstance(event := await pending.next(), str):
                pass
            texts.append(event.text)
        assert texts == [student.answer(tiny.picture(), "what is in this image?").text] * 3
        held.go.clear()
        under_way = queue.take(asked)
        while not queue._current:
            await asyncio.sleep(0.01)
        in_line = queue.take(asked)
        queue.refuse_all()
        for pending in (under_way, in_line):
            with pytest.raises(Refused, match="being stopped"):
                await pending.next()
        with pytest.raises(Refused, match="being stopped"):
            queue.take(asked)
        held.go.set()
        assert queue.close()

    asyncio.run(ask())
