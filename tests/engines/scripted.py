"""A real HTTP server on a loopback port that answers as a test says, and remembers what it was asked."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from masters_edge.engines.endpoint import PROBE
from tests.http_server import QuietServer, Raw

Reply = Callable[[dict[str, Any], int], Any]
"""From a request's JSON, and how many came before it, to the answer: JSON, (status, JSON), a body's bytes, `Raw`, or
None to close the connection without a word."""


@dataclass
class Scripted:
    """Where it listens, what it was asked, and the engine's first question, which counts apart."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    probed: list[dict[str, Any]] = field(default_factory=list)


@contextlib.contextmanager
def scripted(
    reply: Reply, models: Any = ("tiny",), probe: Reply | None = None, key: str | None = None
) -> Iterator[Scripted]:
    """A server that lists `models` (or sends them as they are, if they are no tuple) and answers chats by `reply`.

    `probe` answers the engine's first question; default: a token, with its id. `key` is asked for, where there is one.
    """
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None: ...

        def do_GET(self) -> None:
            if key is not None and self.headers["Authorization"] != f"Bearer {key}":
                return self.send((401, {"error": {"message": "no"}}))
            if self.path != "/v1/models":
                return self.send((404, {"detail": "Not Found"}))
            listed = {"object": "list", "data": [{"id": name, "object": "model"} for name in models]}
            self.send(listed if isinstance(models, tuple) else models)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            probing = body["messages"][0]["content"][1]["text"] == PROBE
            with lock:
                heard = server.probed if probing else server.asked
                heard.append(body)
                number = len(heard) - 1
            answer = ((probe or first) if probing else reply)(body, number)
            self.send(answer)

        def send(self, answer: Any) -> None:
            if answer is None:
                self.close_connection = True
                return
            if isinstance(answer, Raw):
                self.close_connection = True
                answer.write(self.wfile)
                return
            status, content = answer if isinstance(answer, tuple) else (200, answer)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Retry-After-Ms", "10")  # the client's own pauses are longer than a test should take
            self.end_headers()
            self.wfile.write(data)

    listening = QuietServer(("127.0.0.1", 0), Handler)
    server = Scripted(f"http://127.0.0.1:{listening.server_port}/v1")
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def first(body: dict[str, Any], number: int) -> dict[str, Any]:
    return completion(token_ids=[2])


def spoken(body: dict[str, Any], number: int) -> dict[str, Any]:
    return completion()


def completion(text: str | None = "yes", finish: str = "stop", prompt: Any = None, **choice: Any) -> dict[str, Any]:
    """A chat completion with one choice."""
    message = {"role": "assistant", "content": text}
    whole = {"index": 0, "message": message, "finish_reason": finish, **choice}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "tiny",
        "choices": [whole],
        "prompt_token_ids": prompt,
    }
