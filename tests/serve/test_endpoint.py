"""OpenAI's own client against a real server: the same answers as the student's, whole and streamed."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import openai
from PIL import Image

from masters_edge.runtime import Student
from tests import tiny
from tests.serve.server import QUESTION, Server, data_url, messages, png, serving


def test_the_served_model_is_listed(client: openai.OpenAI, server: Server, student: Student) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object) == (server.model, "model")
    facts = model.model_extra["masters_edge"]
    assert (facts["scheme"], facts["backend"], facts["threads"]) == ("fp32", student.backend.name, 1)
    assert client.models.retrieve(server.model) == model


def test_the_answer_is_the_students_own(client: openai.OpenAI, server: Server, student: Student) -> None:
    image = tiny.picture(70, 51, seed=3)
    expected = student.answer(image, QUESTION)
    reply = client.chat.completions.create(model=server.model, messages=messages(image), temperature=0)
    (choice,) = reply.choices
    assert choice.message.content == expected.text and choice.message.role == "assistant"
    assert choice.finish_reason == ("stop" if expected.token_ids[-1] in student.stop_ids else "length")
    assert reply.usage.prompt_tokens == expected.prompt_tokens
    assert reply.usage.completion_tokens == len(expected.token_ids)
    assert reply.usage.total_tokens == expected.prompt_tokens + len(expected.token_ids)
    timings = reply.model_extra["timings"]
    assert 0 < timings["ttft_ms"] <= timings["total_ms"]


def test_a_stream_says_the_same_in_pieces(client: openai.OpenAI, server: Server) -> None:
    image = tiny.picture(seed=4)
    whole = client.chat.completions.create(model=server.model, messages=messages(image))
    chunks = list(
        client.chat.completions.create(
            model=server.model, messages=messages(image), stream=True, stream_options={"include_usage": True}
        )
    )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    pieces = [delta.content for delta in deltas if delta.content]
    assert "".join(pieces) == whole.choices[0].message.content and len(pieces) > 1
    assert deltas[0].role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert len({chunk.id for chunk in chunks}) == 1 and chunks[-2].model_extra["timings"]["ttft_ms"] > 0


def test_several_at_once_are_all_right(client: openai.OpenAI, server: Server, student: Student) -> None:
    images = [tiny.picture(60 + 7 * seed, 40, seed=seed) for seed in range(4)]
    expected = [student.answer(image, QUESTION).text for image in images]
    assert len(set(expected)) > 1

    def ask(image: Image.Image) -> str:
        return client.chat.completions.create(model=server.model, messages=messages(image)).choices[0].message.content

    with ThreadPoolExecutor(len(images)) as pool:
        assert list(pool.map(ask, images)) == expected


def test_length_and_stop(client: openai.OpenAI, server: Server, student: Student) -> None:
    image = tiny.picture(seed=6)
    expected = student.answer(image, QUESTION, max_new_tokens=3)
    for limit in ({"max_tokens": 3}, {"max_completion_tokens": 3}):
        reply = client.chat.completions.create(model=server.model, messages=messages(image), **limit)
        assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (expected.text, "length")
        assert reply.usage.completion_tokens == 3
    text = student.answer(image, QUESTION).text
    stop = text[len(text) // 2 :][:2]
    assert len(stop) == 2
    reply = client.chat.completions.create(model=server.model, messages=messages(image), stop=[stop, "never said"])
    assert reply.choices[0].message.content == text[: text.index(stop)]
    assert reply.choices[0].finish_reason == "stop"
    streamed = client.chat.completions.create(model=server.model, messages=messages(image), stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == text[: text.index(stop)]


def test_what_changes_nothing_is_let_through(client: openai.OpenAI, server: Server, student: Student) -> None:
    image = tiny.picture()
    parts = messages(image)[0]["content"]
    said = [
        {"role": "system", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "what"}, parts[0], {"type": "text", "text": "is it?"}]},
    ]
    reply = client.chat.completions.create(
        model=server.model, messages=said, top_p=0.9, seed=3, n=1, presence_penalty=0, logprobs=False, user="me"
    )
    assert reply.choices[0].message.content == student.answer(image, "what\nis it?").text


def test_a_photo_is_turned_upright(client: openai.OpenAI, server: Server, student: Student, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the sensor lay on its side
    data = png(tiny.picture(64, 48, seed=9), "JPEG", exif=exif, quality=95)
    (tmp_path / "p.jpg").write_bytes(data)
    expected = student.answer(tmp_path / "p.jpg", QUESTION).text
    assert expected != student.answer(Image.open(tmp_path / "p.jpg"), QUESTION).text
    content = [
        {"type": "text", "text": QUESTION},
        {"type": "image_url", "image_url": {"url": data_url(data, "image/jpeg")}},
    ]
    reply = client.chat.completions.create(model=server.model, messages=[{"role": "user", "content": content}])
    assert reply.choices[0].message.content == expected


def test_an_answer_ends_when_its_asker_goes(bundle: Path, tmp_path: Path) -> None:
    """A student that never stops: the next question is answered at once when the first one's asker hangs up."""
    import shutil

    copy = Path(shutil.copytree(bundle, tmp_path / "endless"))
    settings = copy / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eos_token_id": []}))
    config = copy / "config.json"
    values = json.loads(config.read_text())
    values["text_config"]["max_position_embeddings"] = 10_000_000
    config.write_text(json.dumps(values))
    from masters_edge.bundle import manifest as manifests

    manifests.write(copy, manifests.read(copy))
    body = {"model": "endless", "messages": messages(tiny.picture()), "max_tokens": 5_000_000}
    with serving(copy) as server:
        for stream in (True, False):
            host, port = server.url.removeprefix("http://").split(":")
            payload = json.dumps({**body, "stream": stream}).encode()
            with socket.create_connection((host, int(port))) as asker:
                head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                asker.sendall(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
                if stream:
                    assert b"200 OK" in asker.recv(4096)
                else:
                    time.sleep(0.3)
            short = httpx.post(f"{server.url}/v1/chat/completions", json={**body, "max_tokens": 2}, timeout=60)
            assert short.json()["usage"]["completion_tokens"] == 2
        # Ctrl-C ends one that is under way, too.
        with httpx.stream(
            "POST", f"{server.url}/v1/chat/completions", json={**body, "stream": True}, timeout=60
        ) as endless:
            lines = endless.iter_lines()
            next(lines)
            status, said = server.stop()
            assert any("the server is being stopped" in line for line in lines)
        assert status == 0 and "Traceback" not in said, said
