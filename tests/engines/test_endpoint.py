"""What a server is asked, and what becomes of its answers; against real HTTP servers that say what a test wants."""

import base64
import io
import json
import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from masters_edge.common.errors import UserError
from masters_edge.data.records import Question, open_image
from masters_edge.engines import Request, Speaker, sampled
from masters_edge.engines.endpoint import EndpointEngine
from masters_edge.recipe.schema import Endpoint, Responses
from tests.engines.scripted import Scripted, completion, scripted, spoken

SAMPLING = Responses(max_new_tokens=7)


def engine(server: Scripted, speaker: Speaker, **settings: Any) -> EndpointEngine:
    return EndpointEngine(Endpoint(url=server.url, model="tiny", **settings), SAMPLING, speaker)


def test_each_response_is_a_request_with_its_own_seed(student: Speaker, questions: list[Question]) -> None:
    with scripted(lambda body, number: completion(finish="stop", token_ids=[20, 2])) as server:
        made = engine(server, student)
        answers = made.answer([sampled(questions[0], 3, 5), Request(questions[1])], SAMPLING)
    assert answers == [[[20, 2]] * 3, [[20, 2]]] and made.name == f"endpoint {server.url} tiny"
    seeded = [body for body in server.asked if "seed" in body]
    assert len(seeded) == 3 and len({body["seed"] for body in seeded}) == 3
    assert all(0 <= body["seed"] < 2**31 for body in seeded)
    (image_id,) = student.placeholders
    sent = {
        "model": "tiny",
        "temperature": 1.0,
        "top_p": 0.9,
        "top_k": 50,
        "min_p": 0.0,
        "repetition_penalty": 1.05,
        "max_tokens": 7,
        "logit_bias": {str(image_id): -100},
        "return_token_ids": True,
    }
    assert all({name: body[name] for name in sent} == sent and "n" not in body for body in seeded)
    (greedy,) = (body for body in server.asked if "seed" not in body)
    expected = {"temperature": 0.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert {name: greedy[name] for name in expected} == expected
    picture, text = greedy["messages"][0]["content"]
    assert text == {"type": "text", "text": questions[1].text}
    received = Image.open(io.BytesIO(base64.b64decode(picture["image_url"]["url"].partition(",")[2])))
    np.testing.assert_array_equal(np.array(received), np.array(open_image(questions[1])))


def test_the_same_seeds_are_asked_again(student: Speaker, questions: list[Question]) -> None:
    asked = []
    for some in (questions[:3], questions[2:3]):
        with scripted(spoken, probe=spoken) as server:
            engine(server, student).answer([sampled(question, 2, 5) for question in some], SAMPLING)
        text = questions[2].text
        asked.append(sorted(b["seed"] for b in server.asked if b["messages"][0]["content"][1]["text"] == text))
    assert asked[0] == asked[1]


def test_answers_stand_in_the_order_of_the_requests(student: Speaker, questions: list[Question]) -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def reply(body: dict[str, Any], number: int) -> Any:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.15 if number % 2 == 0 else 0.01)
        with lock:
            under_way -= 1
        return completion(token_ids=[body["seed"] % 300 + 50, 2])

    heard: list[int] = []
    requests = [sampled(question, 2, 1) for question in questions]
    with scripted(reply) as server:
        answers = engine(server, student, concurrency=3).answer(requests, SAMPLING, heard.append)
    assert answers == [[[(seed & 0x7FFFFFFF) % 300 + 50, 2] for seed in request.seeds] for request in requests]
    assert most == 3 and sum(heard) == len(requests)


def test_text_becomes_tokens_again(student: Speaker, questions: list[Question]) -> None:
    tokenizer, end = student.prompter.tokenizer, student.prompter.tokenizer.eos_token_id
    said = ["a red square", "", "an <image> of it", "a gre"]
    replies = [completion(text, "length" if text == "a gre" else "stop") for text in said]
    with scripted(lambda body, number: replies[number], probe=spoken) as server:
        made = engine(server, student, concurrency=1)
        found = [answer[0] for answer in made.answer([Request(question) for question in questions[:4]])]
        assert made.name == f"endpoint {server.url} tiny, retokenized"
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in found] == said
    assert [ids[-1] == end for ids in found] == [True, True, True, False]
    assert found[1] == [end] and not set(student.placeholders) & set(found[2])


def test_a_response_ends_before_an_image(
    student: Speaker, questions: list[Question], capsys: pytest.CaptureFixture
) -> None:
    (image,) = student.placeholders
    replies = [[30, image, 40, 2], [31, 2, 50]]
    with scripted(lambda body, number: completion(token_ids=replies[number])) as server:
        made = engine(server, student, concurrency=1)
        found = made.answer([Request(question) for question in questions[:2]])
    assert found == [[[30]], [[31, 2]]]
    assert "1 responses" in capsys.readouterr().out


def test_what_the_body_says_counts(student: Speaker, questions: list[Question]) -> None:
    with scripted(spoken, probe=spoken) as server:
        made = engine(server, student, body={"top_k": None, "return_token_ids": None, "min_p": 0.1, "top_p": 0.5})
        made.answer([sampled(questions[0], 1, 0)], SAMPLING)
        assert "without top_k" in made.name and "top_p" not in made.name
    (body,) = server.asked
    assert "top_k" not in body and "return_token_ids" not in body
    assert (body["min_p"], body["top_p"], body["repetition_penalty"]) == (0.1, 0.5, 1.05)
    with pytest.raises(UserError, match="'seed'"), scripted(spoken, probe=spoken) as server:
        engine(server, student, body={"seed": 3})


def test_transformers_serve_gets_a_generation_config(student: Speaker, questions: list[Question]) -> None:
    with scripted(spoken, probe=spoken) as server:
        made = engine(server, student, body={"generation_config": {"min_p": 0.1}}, concurrency=1)
        made.answer([sampled(questions[0], 1, 0), Request(questions[0])], SAMPLING)
    both = {json.loads(body["generation_config"])["do_sample"]: body for body in server.asked}
    config = json.loads(both[True]["generation_config"])
    assert config["top_k"] == 50 and config["repetition_penalty"] == 1.05 and config["min_p"] == 0.1
    greedy = json.loads(
        both[False]["generation_config"]
    )  # in full: the server takes what is missing from the checkpoint
    assert (greedy["repetition_penalty"], greedy["num_beams"], greedy["no_repeat_ngram_size"]) == (1.0, 1, 0)
    assert config["eos_token_id"] == [2] and config["suppress_tokens"] == student.placeholders
    assert set(both[True]) == {"messages", "model", "max_tokens", "seed", "generation_config"}
    assert set(both[False]) == {"messages", "model", "max_tokens", "generation_config"}


def test_another_prompt_than_trainings_is_refused(student: Speaker, questions: list[Question]) -> None:
    expected = student.prompter(questions[0])[0]
    with scripted(lambda body, number: completion(prompt=expected, token_ids=[2])) as server:
        assert engine(server, student).answer([Request(questions[0])]) == [[[2]]]
    other = [*expected[:9], 77, *expected[9:]]
    with (
        scripted(lambda body, number: completion(prompt=other, token_ids=[2])) as server,
        pytest.raises(UserError, match="differ from token 9 on"),
    ):
        engine(server, student).answer([Request(questions[0])])
