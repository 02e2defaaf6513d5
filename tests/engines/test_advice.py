"""What an endpoint's sentences tell their reader to do, done: each server that refused then answers."""

import time
from typing import Any

import pytest

from masters_edge.common.errors import UserError
from masters_edge.data.records import Question
from masters_edge.engines import Request, Speaker
from masters_edge.engines.endpoint import EndpointEngine
from masters_edge.recipe.schema import Endpoint, Responses
from tests.advice import follows
from tests.engines.scripted import completion, scripted, spoken

OK = completion(token_ids=[20, 2])


def _without(*names: str) -> Any:
    """A server that takes a request without these fields alone."""

    def reply(body: dict[str, Any], number: int) -> Any:
        if wrong := [name for name in names if name in body]:
            return 400, {"error": {"message": f"Unknown parameter: '{wrong[0]}'."}}
        return OK if "return_token_ids" in body else completion()

    return reply


def _slow(body: dict[str, Any], number: int) -> Any:
    time.sleep(0.3)
    return OK


def _of_another_prompt(body: dict[str, Any], number: int) -> Any:
    return completion(token_ids=[20, 2], prompt=[1, 2, 3]) if "return_token_ids" in body else completion()


# The recipe's endpoint, a server, what is said, and what the endpoint is as it advises.
ADVICE: dict[str, tuple[dict[str, Any], Any, str, dict[str, Any]]] = {
    "a field": ({}, _without("top_k"), "set the endpoint's body: {top_k: null}", {"body": {"top_k": None}}),
    "transformers serve": (
        {},
        _without("top_k", "repetition_penalty", "return_token_ids", "logit_bias"),
        "for `transformers serve`, body: {generation_config: {}}",
        {"body": {"generation_config": {}}},
    ),
    "its own seed": ({"body": {"seed": 1}}, _without(), "take it out", {"body": {}}),
    "another prompt": (
        {},
        _of_another_prompt,
        "endpoint body: {return_token_ids: null}",
        {"body": {"return_token_ids": None}},
    ),
    "too slow": ({"timeout_s": 0.1}, _slow, "raise the endpoint's timeout_s", {"timeout_s": 20}),
    "another name": ({"model": "tiny-1"}, _without(), "did you mean tiny?", {"model": "tiny"}),
}


@follows(
    "the endpoint's body says {}, which each request says for itself; take it out",
    "they differ from token {} on, so its responses would answer something else: {}",
    "raise the endpoint's timeout_s or lower its concurrency",
    "the server at {} has no model {}; {}",
)
@pytest.mark.parametrize("name", ADVICE)
def test_what_a_sentence_advises_works(name: str, student: Speaker, questions: list[Question]) -> None:
    wrong, reply, advice, better = ADVICE[name]

    def ask(url: str, settings: dict[str, Any]) -> Any:
        endpoint = Endpoint(url=url, **{"model": "tiny", "retries": 0, **settings})
        with EndpointEngine(endpoint, Responses(max_new_tokens=4), student) as engine:
            return engine.answer([Request(questions[0])])

    probe = spoken if "return_token_ids" in str(better) or "generation_config" in str(better) else None
    with scripted(reply) as server:
        with pytest.raises(UserError) as caught:
            ask(server.url, wrong)
        assert advice in str(caught.value)
    with scripted(reply, probe=probe) as server:
        ((ids,),) = ask(server.url, better)
    assert ids


def test_a_key_where_the_sentence_says(
    student: Speaker, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that asks for a key gets the one of the variable that is named."""
    monkeypatch.delenv("THE_KEY", raising=False)
    with scripted(lambda body, number: OK, key="sesame") as server:
        endpoint = Endpoint(url=server.url, model="tiny", api_key_env="THE_KEY", retries=0)
        with pytest.raises(UserError, match=r"put its key into \$THE_KEY"):
            EndpointEngine(endpoint, Responses(max_new_tokens=4), student)
        monkeypatch.setenv("THE_KEY", "sesame")
        with EndpointEngine(endpoint, Responses(max_new_tokens=4), student) as engine:
            assert engine.answer([Request(questions[0])]) == [[[20, 2]]]
