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

import pytest

from masters_edge.common.errors import UserError
from masters_edge.runtime import Student
from masters_edge.serve import command, requests
from masters_edge.serve.question_queue import QuestionQueue
from masters_edge.serve.refusals import Refused
from tests import tiny
from tests.serve.server import messages, serving


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

    def answer(self, *arguments, **named):
        self.go.wait(30)
        return self.student.answer(*arguments, **named)


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
