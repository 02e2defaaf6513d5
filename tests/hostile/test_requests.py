"""Requests that mean harm, put before `masters-edge serve` as a process: each is refused, and nothing of it is said."""

import socket
from collections.abc import Iterator

import httpx2 as httpx
import pytest

from tests.export import bundles
from tests.serve import test_refusals as refusals
from tests.serve.server import Server, serving

ESCAPES = "\x1b[2J\x1b]0;PWNED\x07"
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
# What comes over the wire, and whether the server can tell that it is over (it waits for the rest of the others).
RAW = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n", True),
    "escapes for a method": (f"{ESCAPES} / HTTP/1.1\r\n\r\n".encode(), True),
    "escapes for a path": (f"GET /{ESCAPES} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), True),
    "escapes for a name": (f"GET / HTTP/1.1\r\nHost: {ESCAPES}\r\n\r\n".encode(), True),
    "no name": (b"GET / HTTP/1.1\r\n\r\n", True),
    "half a character in the path": (b"GET /%ED%A0%BD HTTP/1.1\r\nHost: localhost\r\n\r\n", True),
    "a path that climbs": (b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", True),
    "a header without end": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (1 << 20), True),
    "headers without end": (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: x\r\n" * 100_000, True),
    "less than nothing": (CHAT + b"Content-Length: -1\r\n\r\n{}", True),
    "a length of words": (CHAT + b"Content-Length: many\r\n\r\n{}", True),
    "a length beyond": (CHAT + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}", True),
    "two lengths": (CHAT + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", True),
    "chunks of no number": (CHAT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", True),
    "half a body": (CHAT + b'Content-Length: 99\r\n\r\n{"model"', False),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(bundles.exported("smolvlm", "fp32", splitting=True)) as started:
        yield started


@pytest.mark.parametrize("case", RAW)
def test_what_is_no_request_is_refused(case: str, server: Server) -> None:
    sent, over = RAW[case]
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as one:
        try:
            one.sendall(sent)
            reply = one.recv(1 << 16) if over else b""
        except ConnectionError:  # it hung up on us
            reply = b""
    assert not reply or reply.startswith(b"HTTP/1.1 4"), reply
    assert httpx.get(f"{server.url}/health", timeout=5).json() == {"status": "ok"}


def test_a_question_is_answered_behind_an_odd_one(server: Server) -> None:
    """What the server said of all of them is read when it ends (`serving`)."""
    chat = f"{server.url}/v1/chat/completions"
    odd = httpx.post(chat, json={"model": ESCAPES, "messages": [refusals.USER]}, timeout=30)
    assert odd.status_code == 404
    good = {"model": server.model, "messages": [refusals.USER], "max_tokens": 2}
    assert httpx.post(chat, json=good, timeout=30).status_code == 200
