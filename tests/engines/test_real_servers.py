"""The endpoint engine against servers as people run them: `transformers serve` and our own `masters-edge serve`."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from masters_edge.common.errors import UserError
from masters_edge.data import easy_vqa
from masters_edge.engines import Request, Speaker, sampled
from masters_edge.engines.endpoint import EndpointEngine
from masters_edge.engines.transformers import Engine
from masters_edge.families import load_model
from masters_edge.families.prompts import Prompter
from masters_edge.recipe.schema import Endpoint, Responses
from tests import tiny
from tests.export import bundles
from tests.serve.server import serving

pytestmark = pytest.mark.slow

SAMPLING = Responses(max_new_tokens=6)


@contextmanager
def transformers_serve(checkpoint: Path, log: Path) -> Iterator[str]:
    """A `transformers serve` process pinned to a checkpoint, and where it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = Path(sys.executable).with_name("transformers")
    command = [str(program), "serve", str(checkpoint), "--host", "127.0.0.1", "--port", port, "--device", "cpu"]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Speaker, Engine]:
    """An Idefics3 (its processor needs no torchvision) as a speaker, and the transformers engine with it."""
    source = str(tiny.idefics3(tmp_path_factory.mktemp("idefics3") / "student", seed=3, splitting=True))
    speaker = Speaker(Prompter.load(source), source)
    return speaker, Engine(load_model(source), speaker.prompter, SAMPLING.max_new_tokens, 16)


@pytest.fixture(scope="module")
def served(plain: tuple[Speaker, Engine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    source = Path(plain[0].source)
    with transformers_serve(source, tmp_path_factory.mktemp("log") / "serve.log") as url:
        yield {"url": url, "model": str(source), "body": {"generation_config": {}}}


def test_transformers_serve_says_what_the_transformers_engine_says(plain: Any, served: dict[str, Any]) -> None:
    speaker, engine = plain
    requests = [Request(question) for question in easy_vqa.read("train")[:12]]
    with EndpointEngine(Endpoint(**served), SAMPLING, speaker) as asked:
        found = [answer[0] for answer in asked.answer(requests)]
    expected = [answer[0] for answer in engine.answer(requests)]
    # As texts: random tokens cut characters in half, and half a character doesn't come through a server's JSON.
    assert engine.texts(found) == engine.texts(expected) and len(set(engine.texts(found))) > 6
    (end,) = asked.end_ids
    assert [ids[-1] == end for ids in found] == [ids[-1] == end and len(ids) < 6 for ids in expected]


def test_seeds_hold_at_transformers_serve_one_at_a_time(plain: Any, served: dict[str, Any]) -> None:
    speaker, _ = plain
    questions = easy_vqa.read("train")[:4]
    with EndpointEngine(Endpoint(**served, concurrency=1), SAMPLING, speaker) as asked:
        requests = [sampled(question, 2, 1) for question in questions]
        first = asked.answer(requests, SAMPLING)
        assert asked.answer(requests[::-1], SAMPLING)[::-1] == first
        assert asked.answer([sampled(question, 2, 2) for question in questions], SAMPLING) != first
    assert len({tuple(ids) for group in first for ids in group}) > 6


def test_a_field_it_does_not_know(plain: Any, served: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"refuses .*top_k.*body: \{generation_config: \{\}\}"):
        EndpointEngine(Endpoint(**served | {"body": {}}), SAMPLING, plain[0])
    with pytest.raises(UserError, match="did you mean"):
        EndpointEngine(Endpoint(**served | {"model": served["model"] + "s"}), SAMPLING, plain[0])


def test_our_own_server_greedily() -> None:
    source = str(bundles.student("smolvlm", True))
    speaker = Speaker(Prompter.load(source), source)
    engine = Engine(load_model(source), speaker.prompter, SAMPLING.max_new_tokens, 16)
    questions = easy_vqa.read("train")[:6]
    left_out = {name: None for name in ("top_k", "min_p", "repetition_penalty", "logit_bias", "return_token_ids")}
    with serving(bundles.exported("smolvlm", "fp32", splitting=True)) as server:
        endpoint = Endpoint(url=f"{server.url}/v1", model=server.model, body=left_out)
        with EndpointEngine(endpoint, SAMPLING, speaker) as asked:
            found = [answer[0] for answer in asked.answer([Request(question) for question in questions])]
            assert engine.texts(found) == engine.greedy(questions)
            assert "retokenized" in asked.name
            with pytest.raises(UserError, match="temperature.*greedy"):
                asked.answer([sampled(questions[0], 2, 1)], SAMPLING)
