from dataclasses import replace
from pathlib import Path

import pytest

from masters_edge.benchmarks import suites
from masters_edge.benchmarks.suites import Suite
from masters_edge.errors import UserError


def test_easy_vqa_is_the_official_test_split() -> None:
    pytest.importorskip("easy_vqa")
    suite = suites.load("easy-vqa")
    assert (suite.name, suite.metric, len(suite.questions)) == ("easy-vqa", "exact_match", 9673)
    assert len({q.answer for q in suite.questions}) == 13


def test_take_is_the_same_every_time_and_in_order(suite: Suite) -> None:
    taken = suite.take(7)
    assert taken == suite.take(7) and len(taken.questions) == 7
    assert [q.id for q in taken.questions] == [q.id for q in suite.questions if q in taken.questions]
    assert suite.take(None) is suite and suite.take(99) is suite
    assert suite.take(7).sha256 != suite.sha256
    with pytest.raises(UserError, match="at least 1"):
        suite.take(0)


def test_fingerprint_follows_everything_that_is_asked(suite: Suite, tmp_path: Path) -> None:
    first, *rest = suite.questions
    variants = [
        replace(suite, questions=(replace(first, answers=("red", "crimson")), *rest)),
        replace(suite, metric="anls"),
        replace(suite, questions=(replace(first, text="other"), *rest)),
        replace(suite, questions=(replace(first, answer="other"), *rest)),
        replace(suite, questions=(replace(first, image=b"other"), *rest)),
        replace(suite, questions=tuple(rest)),
        replace(suite, questions=(*rest, first)),
    ]
    image = tmp_path / "a.png"
    image.write_bytes(b"1")
    on_disk = replace(suite, questions=(replace(first, image=image), *rest))
    variants.append(on_disk)
    digests = {variant.sha256 for variant in variants} | {suite.sha256}
    assert len(digests) == len(variants) + 1
    image.write_bytes(b"12")
    assert replace(on_disk, name="colours").sha256 not in digests


def test_own_questions_are_checked(suite: Suite) -> None:
    questions = suite.questions
    with pytest.raises(UserError, match="1 of 20 questions have no answer .the first is q0"):
        suites.from_questions([questions[0].without_answer(), *questions[1:]], "exact_match")
    with pytest.raises(UserError, match="two questions share an id"):
        suites.from_questions([questions[0], questions[0]], "exact_match")
    with pytest.raises(UserError, match="no questions"):
        suites.from_questions([], "exact_match")
    with pytest.raises(UserError, match="did you mean 'anls'"):
        suites.from_questions(questions, "ansl")
    with pytest.raises(UserError, match="did you mean 'easy-vqa'"):
        suites.load("easy-vaq")
