"""Whatever a student can't do is refused with a sentence in OpenAI's format, and the next question is answered."""

import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import openai
import pytest

from tests import tiny
from tests.serve.server import QUESTION, Server, data_url, messages, png, serving

GOOD = png(tiny.picture())


def bomb(side: int) -> bytes:
    """A PNG of a few bytes whose header promises `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def with_url(url: str) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTION}]
    return {"messages": [{"role": "user", "content": parts}]}


USER = messages(GOOD)[0]
TWO = {"role": "user", "content": [USER["content"][0], USER["content"][0], USER["content"][1]]}
AUDIO = {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}, *USER["content"]]}

REFUSED: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "warm": ({"temperature": 0.7}, "temperature can't be 0.7 here: answers are greedy", "temperature"),
    "variants": ({"n": 2}, "n can't be 2", "n"),
    "no number": ({"n": True}, "n can't be true", "n"),
    "probabilities": ({"logprobs": True}, "probabilities are not given", "logprobs"),
    "tools": ({"tools": [{"type": "function"}]}, "has no tools", "tools"),
    "json": ({"response_format": {"type": "json_object"}}, "plain text", "response_format"),
    "unknown": ({"guided_choice": ["a"]}, "guided_choice is nothing this server knows", "guided_choice"),
    "no tokens": ({"max_tokens": 0}, "max_tokens: input should be greater than or equal to 1", "max_tokens"),
    "two lengths": ({"max_tokens": 1, "max_completion_tokens": 2}, "send one of them", "max_tokens"),
    "stops": ({"stop": list("abcde")}, "up to 4 sequences", "stop"),
    "empty stop": ({"stop": ""}, "none of them empty", "stop"),
    "no messages": ({"messages": []}, "there are 0 user messages", "messages"),
    "system": (
        {"messages": [{"role": "system", "content": "You are a pirate."}, USER]},
        "has no place for one",
        "messages[0]",
    ),
    "turns": (
        {"messages": [USER, {"role": "assistant", "content": "red"}, USER]},
        "can't read earlier turns",
        "messages[1]",
    ),
    "two questions": ({"messages": [USER, USER]}, "there are 2 user messages", "messages"),
    "two pictures": ({"messages": [TWO]}, "the question has 2 pictures", "messages[0].content"),
    "no picture": ({"messages": [{"role": "user", "content": "hi"}]}, "has 0 pictures", "messages[0].content"),
    "no question": ({"messages": messages(GOOD, " \n")}, "the question is empty", "messages[0].content"),
    "sound": ({"messages": [AUDIO]}, "'text' or 'image_url'", "messages[0].content[0].type"),
    "placeholder": ({"messages": messages(GOOD, "is <image> red?")}, "stands for the image", None),
    "blanks": (
        {"messages": messages(GOOD, " " * 2_000_000 + "x")},
        "the question has 2,000,001 characters; the student reads 512 tokens, which hold",
        None,
    ),
    "long": ({"messages": messages(GOOD, "what is it? " * 400)}, "the student reads 512", None),
    "web": (with_url("https://example.org/cat.png"), "fetches nothing", "messages[0].content[0].image_url.url"),
    "file": (with_url("file:///etc/passwd"), "of the form data:image/png;base64", None),
    "base64": (with_url("data:image/png;base64,@@@"), "base64 can't be decoded", None),
    "no image": (with_url(data_url(b"%!PS-Adobe-3.0 EPSF-3.0\n")), "none of PNG, JPEG", None),
    "torn": (with_url(data_url(GOOD[: len(GOOD) // 2])), "the picture can't be read", None),
    "large": (with_url(data_url(bomb(9_000))), "9000 x 9000 pixels; at most 64 million", None),
    "bomb": (with_url(data_url(bomb(30_000))), "more than 64 million pixels", None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_sentence(client: openai.OpenAI, server: Server, name: str) -> None:
    changed, sentence, param = REFUSED[name]
    body = {"model": server.model, "messages": [USER], **changed}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            client.post("/chat/completions", body={**body, "stream": stream}, cast_to=object)
        assert sentence in refused.value.message, refused.value.message
        assert refused.value.type == "invalid_request_error"
        if param:
            assert refused.value.param == param


def test_answers_after_all_that(client: openai.OpenAI, server: Server) -> None:
    assert client.chat.completions.create(model=server.model, messages=[USER]).choices


def test_another_model_is_not_there(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="ask for 'smolvlm-") as refused:
        client.chat.completions.create(model="gpt-4o", messages=[USER])
    assert refused.value.code == "model_not_found"


def test_bodies(server: Server) -> None:
    url = f"{server.url}/v1/chat/completions"
    as_json = {"Content-Type": "application/json"}
    for content in (b"{", b"[]", b"[" * 100_000, b'{"model": "\xff"}'):
        reply = httpx.post(url, content=content, headers=as_json)
        assert reply.status_code == 400 and reply.json()["error"]["type"] == "invalid_request_error"
    # What a page of another site could send without asking first.
    form = httpx.post(url, content=b"{}", headers={"Content-Type": "text/plain"})
    assert form.status_code == 415 and "application/json" in form.json()["error"]["message"]
    for body in (bytes(34 * 2**20), (bytes(2**20) for _ in range(34))):  # with a Content-Length, and in chunks
        large = httpx.post(url, content=body, headers=as_json, timeout=30)
        assert large.status_code == 413 and "larger than 32 MiB" in large.json()["error"]["message"]
    assert httpx.get(url).status_code == 405
    assert "nothing at /v1/nothing" in httpx.get(f"{server.url}/v1/nothing").json()["error"]["message"]


@pytest.mark.parametrize(
    "place",
    ["QUESTION", '"user"', '"model"', '"image_url"', "data:image", '"text"', '"stream"', '"stop"', '"?"', '"low"'],
)
def test_half_a_character_anywhere_is_a_refusal(server: Server, place: str) -> None:
    """A lone surrogate, as JSON writes it and as bytes that are no UTF-8."""
    message = json.loads(json.dumps(USER).replace(QUESTION, "QUESTION"))
    message["content"][0]["image_url"]["detail"] = "low"
    body = json.dumps({"model": server.model, "messages": [message], "stream": False, "stop": "?"})
    quote = '"' if place.startswith('"') else ""
    for half in (b"\\ud83d", b"\xed\xa0\xbd"):
        sent = body.encode().replace(place.encode(), place.rstrip('"').encode() + half + quote.encode(), 1)
        reply = httpx.post(
            f"{server.url}/v1/chat/completions", content=sent, headers={"Content-Type": "application/json"}, timeout=30
        )
        assert reply.status_code == 400 and reply.json()["error"]["message"], reply.text


def test_idle_connections_lock_nobody_out(server: Server) -> None:
    """More than the server holds, all of one client: those that say nothing give way, at once."""
    host, port = server.url.removeprefix("http://").split(":")
    crowd = [socket.create_connection((host, int(port))) for _ in range(260)]
    crowd[-1].sendall(b"GET /v1/models HTTP/1.1\r\n")  # and this one never ends its request
    started = time.monotonic()
    assert httpx.get(f"{server.url}/v1/models", timeout=5).status_code == 200
    assert httpx.get(f"{server.url}/health", timeout=5).json() == {"status": "ok"}
    assert time.monotonic() - started < 2
    for one in crowd:
        one.close()


def test_requests_by_another_name_are_refused(server: Server) -> None:
    """A name of somebody else's that points here: what DNS rebinding sends."""
    for host, status in {
        "evil.example": 421,
        "127.0.0.1.evil.example:80": 421,
        "localhost": 200,
        "LOCALHOST:8000": 200,
        "[::1]:80": 200,
    }.items():
        for path in ("/", "/v1/models"):
            assert httpx.get(f"{server.url}{path}", headers={"Host": host}).status_code == status, host
    assert "access-control-allow-origin" not in httpx.get(f"{server.url}/v1/models").headers


@pytest.fixture(scope="module")
def locked(bundle) -> Iterator[Server]:
    with serving(bundle, "--api-key", "sesame") as started:
        yield started


def test_the_key_is_asked_for(locked: Server) -> None:
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key="wrong", max_retries=0) as stranger:
        for ask in (stranger.models.list, lambda: stranger.chat.completions.create(model="x", messages=[USER])):
            with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
                ask()
    assert httpx.get(f"{locked.url}/v1/models").status_code == 401
    assert httpx.get(f"{locked.url}/v1/models", headers={"Authorization": "Basic sesame"}).status_code == 401
    assert httpx.get(f"{locked.url}/").status_code == 200  # the page asks for the key itself
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key="sesame") as friend:
        assert friend.chat.completions.create(model=locked.model, messages=[USER]).choices
