"""What the server's refusals tell their reader to do, done: each then gets an answer."""

import copy
import errno
import socket
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from PIL import Image

from masters_edge.common.errors import UserError
from masters_edge.serve import address, command
from masters_edge.serve.address import listen
from tests import tiny
from tests.advice import follows
from tests.serve.server import Server, data_url, messages, png

USER = messages(tiny.picture())[0]
PICTURE, TEXT = USER["content"]

# What is asked, what is said of it, and the request as it then is: fields changed, None to leave one out.
ADVICE: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "temperature, left out": ({"temperature": 0.7}, "leave it out", {"temperature": None}),
    "temperature, as said": ({"temperature": 0.7}, "or say 0", {"temperature": 0}),
    "variants": ({"n": 3}, "or say 1", {"n": 1}),
    "probabilities": ({"logprobs": True}, "or say false", {"logprobs": False}),
    "likeliest": ({"top_logprobs": 5}, "or say 0", {"top_logprobs": 0}),
    "presence": ({"presence_penalty": 1}, "or say 0", {"presence_penalty": 0}),
    "frequency": ({"frequency_penalty": 1}, "or say 0", {"frequency_penalty": 0}),
    "bias": ({"logit_bias": {"1": 1}}, "or say {}", {"logit_bias": {}}),
    "tools": ({"tools": [{}]}, "or say []", {"tools": []}),
    "a tool": ({"tool_choice": "required"}, 'or say "none" or "auto"', {"tool_choice": "auto"}),
    "JSON": (
        {"response_format": {"type": "json_object"}},
        'or say {"type": "text"}',
        {"response_format": {"type": "text"}},
    ),
    "sound": ({"modalities": ["audio"]}, 'or say ["text"]', {"modalities": ["text"]}),
    "unknown": ({"guided_choice": ["a"]}, "leave it out", {"guided_choice": None}),
    "two lengths": ({"max_tokens": 1, "max_completion_tokens": 2}, "send one of them", {"max_completion_tokens": None}),
    "five stops": ({"stop": list("abcde")}, "up to 4 sequences", {"stop": list("abcd")}),
    "system": (
        {"messages": [{"role": "system", "content": "Be short."}, USER]},
        "put what matters into the question",
        {"messages": messages(tiny.picture(), "Be short. what is in this image?")},
    ),
    "turns": (
        {"messages": [USER, {"role": "assistant", "content": "red"}, USER]},
        "send the one question alone, as a user message",
        {"messages": [USER]},
    ),
    "two questions": (
        {"messages": [USER, USER]},
        "send exactly one, with a picture and a question",
        {"messages": [USER]},
    ),
    "no question": (
        {"messages": [{"role": "user", "content": [PICTURE]}]},
        "add a text part with it",
        {"messages": [{"role": "user", "content": [PICTURE, TEXT]}]},
    ),
    "web": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y"}}, TEXT]}]},
        "send the picture itself as data:image/png;base64,...",
        {"messages": [USER]},
    ),
    "torn": (
        {"messages": messages(png(tiny.picture())[:-40])},
        "send a whole file",
        {"messages": messages(png(tiny.picture()))},
    ),
    "placeholder": (
        {"messages": messages(tiny.picture(), "is <image> red?")},
        "leave it out",
        {"messages": messages(tiny.picture(), "is it red?")},
    ),
    "long": (
        {"messages": messages(tiny.picture(), "what is it? " * 400)},
        "ask a shorter question",
        {"messages": messages(tiny.picture(), "what is it? " * 4)},
    ),
    "far too long": (
        {"messages": messages(tiny.picture(), "what is it? " * 400_000)},
        "ask a shorter question",
        {"messages": messages(tiny.picture(), "what is it?")},
    ),
    "model": ({"model": "gpt-4o"}, "ask for 'smolvlm-", {"model": "the one that is told"}),
}


@pytest.mark.parametrize("name", ADVICE)
def test_what_a_refusal_advises_is_answered(server: Server, name: str) -> None:
    wrong, advice, better = ADVICE[name]
    body = {"model": server.model, "messages": [copy.deepcopy(USER)], "max_tokens": 1, **wrong}
    refused = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    said = refused.json()["error"]["message"]
    assert refused.status_code in (400, 404) and advice in said, said
    body |= {key: said.split("'")[3] if key == "model" else value for key, value in better.items()}
    body = {key: value for key, value in body.items() if value is not None}
    answered = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert answered.status_code == 200, answered.text


def test_a_body_that_is_too_large_fits_with_a_smaller_picture(server: Server) -> None:
    def sent(side: int) -> httpx.Response:
        picture = Image.effect_noise((side, side), 100).convert("RGB")
        parts = [{"type": "image_url", "image_url": {"url": data_url(png(picture, "BMP"))}}, TEXT]
        body = {"model": server.model, "messages": [{"role": "user", "content": parts}], "max_tokens": 1}
        return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)

    assert "send a smaller picture" in sent(3000).json()["error"]["message"]
    assert sent(300).status_code == 200


@follows(
    "the API key is empty; give a longer one, or leave it out",
    "port {} may not be used by this user; choose one above 1023 with --port",
)
def test_a_key_and_a_port_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ordinary(socket.socket):
        """Of a user who isn't the administrator, whoever runs the test."""

        def bind(self, address: Any) -> None:
            if 0 < address[1] < 1024:
                raise PermissionError(errno.EACCES, "Permission denied")
            super().bind(address)

    monkeypatch.setattr(address.socket, "socket", Ordinary)
    with pytest.raises(UserError, match="choose one above 1023 with --port"):
        listen("127.0.0.1", 80)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    listen("127.0.0.1", port).close()
    monkeypatch.setattr(command, "listen", lambda host, port: pytest.fail("the address is asked for next"))
    with pytest.raises(UserError, match="give a longer one, or leave it out"):
        command.serve(Path("bundle"), "127.0.0.1", 0, None, "auto", " ")
    for key in ("sesame", None):
        with pytest.raises(pytest.fail.Exception):
            command.serve(Path("bundle"), "127.0.0.1", 0, None, "auto", key)


@follows(
    "there is no address {} to listen at ({}); try 127.0.0.1 or 0.0.0.0",
    "port {} of {} is in use; choose another with --port, or stop what runs there",
    "can't listen at {}, port {} ({}); give an address of this machine",
)
def test_a_port_that_is_taken_and_one_that_is_not() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match="choose another with --port"):
            listen("127.0.0.1", port)
        listen("127.0.0.1", 0).close()
    listen("127.0.0.1", port).close()  # what ran there is stopped
    with pytest.raises(UserError, match="try 127.0.0.1 or 0.0.0.0"):
        listen("no.such.name.invalid", 0)
    with pytest.raises(UserError, match="give an address of this machine"):
        listen("192.0.2.1", 0)
    for host in ("127.0.0.1", "0.0.0.0"):
        with listen(host, 0) as listener:
            assert isinstance(listener, socket.socket)
