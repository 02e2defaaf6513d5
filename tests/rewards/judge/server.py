"""A real HTTP server that speaks chat completions, with an answer made by a function of the prompt."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.http_server import QuietServer, Raw

Answer = str | int | dict[str, Any] | bytes | Raw | Callable[[], Any]
"""What the judge says; a number: that HTTP status; a dictionary: that JSON; bytes: that body; a function: called, its
result answered."""


class JudgeServer(QuietServer):
    """`asked`: the prompts received, in order. `most_at_once`: how many requests were under way together."""

    request_queue_size = 64

    def __init__(self, answer: Callable[[str], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.asked, self.bodies, self.keys = answer, [], [], []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, prompt = self.server, body["messages"][-1]["content"]
        with server.lock:
            server.asked.append(prompt)
            server.bodies.append(body)
            server.keys.append(self.headers["Authorization"])
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            answer = server.answer(prompt)
            if callable(answer):
                answer = answer()
        finally:
            with server.lock:
                server.at_once -= 1
        if isinstance(answer, Raw):
            return answer.write(self.wfile)
        status, reply = 200, answer
        if isinstance(answer, int):
            status, reply = answer, {"error": {"message": f"status {answer}"}}
        elif isinstance(answer, dict) and "status" in answer:
            status = answer["status"]
        elif isinstance(answer, str):
            reply = completion(answer)
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None: ...


def completion(content: Any) -> dict[str, Any]:
    """A chat completion that says `content`."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "j", "choices": [choice]}


@contextmanager
def judge_server(answer: Callable[[str], Answer]) -> Iterator[JudgeServer]:
    server = JudgeServer(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
