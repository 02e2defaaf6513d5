"""Servers that are wrong, broken or not there: retried where it helps, else one sentence, and nothing is returned."""

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from masters_edge.common.errors import UserError
from masters_edge.data.records import Question
from masters_edge.engines import Request, Speaker
from masters_edge.engines.endpoint import EndpointEngine
from masters_edge.engines.server import where
from masters_edge.recipe.schema import Endpoint, Responses
from tests.engines.scripted import Scripted, completion, scripted
from tests.http_server import DEEP, DRIP, HUGE, LONG_NUMBER, PACKED, SILENT, interrupted

OK = completion(token_ids=[20, 2])


def ask(server: Scripted, speaker: Speaker, questions: list[Question], **settings: Any) -> list[list[list[int]]]:
    endpoint = Endpoint(url=server.url, model="tiny", **settings)
    with EndpointEngine(endpoint, Responses(max_new_tokens=4), speaker) as engine:
        return engine.answer([Request(question) for question in questions])


@pytest.mark.parametrize(
    "bad", [(500, {"error": {"message": "out of memory"}}), (429, {"detail": "slow down"}), (503, b"<html>"), None]
)
def test_a_failure_is_tried_again(bad: Any, student: Speaker, questions: list[Question]) -> None:
    with scripted(lambda body, number: bad if number < 2 else OK) as server:
        assert ask(server, student, questions[:1], retries=2) == [[[20, 2]]]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ((500, {"error": {"message": "out of memory"}}), "after 1 retries .500: out of memory"),
        ((429, {"detail": "slow down"}), "for being too many, after 1 retries"),
        (None, "can't be reached, after 1 retries"),
        ((401, {"error": {"message": "no"}}), r"put its key into \$THE_KEY"),
        ((404, {"detail": "Not Found"}), "/v1"),
        ((400, {"error": {"message": "Unknown parameter: 'top_k'."}}), r"body: \{top_k: null\}"),
        ((422, {"detail": "Unexpected fields in the request: {'return_token_ids'}"}), "return_token_ids: null"),
        ((400, {"error": {"message": "prompt too long"}}), "refuses the request .400: prompt too long"),
        (b"{not json", "no answer of an OpenAI-compatible"),
        ([], "no answer of an OpenAI-compatible"),
        ({"choices": []}, "no answer of an OpenAI-compatible"),
        ({"choices": [{"message": {"content": 3}, "finish_reason": "stop"}]}, "no answer of an OpenAI-compatible"),
        ({"choices": [{"message": {"content": "\ud800"}, "finish_reason": "stop"}]}, "surrogates not allowed"),
        ({"choices": 3}, "no answer of an OpenAI-compatible"),
        ({"choices": {"0": 1}}, "no answer of an OpenAI-compatible"),
        (DEEP, "no answer of an OpenAI-compatible"),
        (LONG_NUMBER, "no answer of an OpenAI-compatible"),
        (HUGE, "sends more than 16 MiB for an answer"),
        (PACKED, "sends compressed what was asked for as it is"),
        (completion(token_ids="yes"), "no token_ids, which it gave before"),
        (completion(token_ids=[20, -1]), "no token_ids, which it gave before"),
        (completion(token_ids=[20, 2**40]), "no token_ids, which it gave before"),
        (completion(finish="\x1b[2J"), r"for the reason '\[2J'"),
        (completion(finish="content_filter"), "content_filter"),
        (completion(), "no token_ids, which it gave before"),
    ],
)
def test_a_failure_for_good_is_a_sentence(bad: Any, said: str, student: Speaker, questions: list[Question]) -> None:
    with (
        scripted(lambda body, number: OK if number == 0 else bad) as server,
        pytest.raises(UserError, match=said) as caught,
    ):
        ask(server, student, questions, retries=1, concurrency=1, api_key_env="THE_KEY")
    assert f"question {questions[1].id}" in str(caught.value) and "\n" not in str(caught.value)


def test_what_it_refuses_is_known_before_the_first_question(student: Speaker) -> None:
    refusal = 400, {"error": {"message": "Unknown parameter: 'top_k'."}}
    with (
        scripted(lambda body, number: OK, probe=lambda body, number: refusal) as server,
        pytest.raises(UserError, match="^the server at .* refuses top_k"),
    ):
        ask(server, student, [])
    assert [body["max_tokens"] for body in server.probed] == [1]


@pytest.mark.parametrize("answer", [SILENT, DRIP])
def test_a_server_that_hangs(answer: Any, student: Speaker, questions: list[Question]) -> None:
    # Longer than the client's own patience by far, and no longer than a test may last.
    with (
        scripted(lambda body, number: answer) as server,
        pytest.raises(UserError, match="no answer within 0.5 s, and retries are 0"),
    ):
        ask(server, student, questions, timeout_s=0.5, retries=0)


def test_ctrl_c_ends_a_server_that_hangs(student: Speaker, questions: list[Question]) -> None:
    hangs = threading.Event()

    def reply(body: dict[str, Any], number: int) -> Any:
        hangs.set()
        return SILENT

    for settings in ({}, {"probe": reply}):  # also while it is asked whether it is there
        hangs.clear()
        with scripted(reply, **settings) as server, interrupted(hangs):
            ask(server, student, questions)
    assert not any(thread.name == "asks a server" for thread in threading.enumerate())


def test_the_first_failure_ends_the_others(student: Speaker, questions: list[Question]) -> None:
    def reply(body: dict[str, Any], number: int) -> Any:
        time.sleep(0.05)
        return 400, {"error": {"message": "no"}}

    with scripted(reply) as server, pytest.raises(UserError, match="refuses"):
        ask(server, student, questions * 10, concurrency=2)
    assert len(server.asked) < 10


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (("tiny-2", "huge"), "no model 'tiny'; did you mean tiny-2?"),
        (("other",), "no model 'tiny'; it has: other"),
        ({"hello": "world"}, "no answer of an OpenAI-compatible"),
        ([1], "no answer of an OpenAI-compatible"),
        (b"<html>", "no answer of an OpenAI-compatible"),
    ],
)
def test_the_model_must_be_there(listed: Any, said: str, student: Speaker, questions: list[Question]) -> None:
    with scripted(lambda body, number: OK, models=listed) as server, pytest.raises(UserError, match=re.escape(said)):
        ask(server, student, questions)
    assert not server.asked


def test_nobody_there(student: Speaker, questions: list[Question]) -> None:
    with scripted(lambda body, number: OK) as server:
        pass
    with pytest.raises(UserError, match=f"{server.url} can't be reached, and retries are 0"):
        ask(server, student, questions, retries=0)
    with scripted(lambda body, number: OK) as server, pytest.raises(UserError, match="/v1 as a rule"):
        EndpointEngine(Endpoint(url=server.url.removesuffix("/v1"), model="tiny"), Responses(), student)


def test_the_key_is_sent(student: Speaker, questions: list[Question], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "secret")
    with scripted(lambda body, number: OK) as server:
        engine = EndpointEngine(Endpoint(url=server.url, model="tiny", api_key_env="THE_KEY"), Responses(), student)
        assert engine._api_key == "secret" and "secret" not in engine.name


def test_templates(student: Speaker, teacher: Callable[..., Speaker]) -> None:
    template = Endpoint(url="http://box:8{teacher}00/v1", model="masked-{ratio:.2f}")
    assert where(template, teacher(0.1, 2)) == ("http://box:8200/v1", "masked-0.10")
    with pytest.raises(UserError, match="the student"):
        where(template, student)
    with pytest.raises(UserError, match=r"\{ratio\} and \{teacher\}"):
        where(Endpoint(url="http://box/v1", model="{mask}"), teacher())
    plain = Endpoint(url="http://box/v1", model="teacher")
    assert where(plain, teacher(0.0)) == ("http://box/v1", "teacher")
    with pytest.raises(UserError, match="same for every mask ratio"):
        where(plain, teacher(0.1))
    with pytest.raises(UserError, match="give all of it"):
        where(Endpoint(url="box:8000/v1", model="teacher"), student)
    with pytest.raises(UserError, match="the server's url 'http://.::1/v1' is none"):
        EndpointEngine(Endpoint(url="http://[::1/v1", model="teacher"), Responses(), student)
