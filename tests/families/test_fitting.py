"""Questions that don't fit a model are refused before a run: images written into text, prompts beyond the context."""

from dataclasses import replace
from pathlib import Path

import pytest

from masters_edge.common.errors import UserError
from masters_edge.data.records import Question
from masters_edge.families import load_config, load_processor
from masters_edge.families.base import family_of
from masters_edge.families.fitting import check_lengths, check_texts
from masters_edge.families.prompts import Prompter, check_image_tokens, context_of
from tests import tiny
from tests.advice import follows


@pytest.fixture(scope="module")
def prompter(tmp_path_factory: pytest.TempPathFactory) -> Prompter:
    source = str(tiny.smolvlm(tmp_path_factory.mktemp("fitting") / "model", splitting=True))
    config = load_config(source)
    return Prompter(load_processor(source), family_of(config), config)


def asked(folder: Path, texts: dict[str, str], size: tuple[int, int] = (20, 20)) -> list[Question]:
    questions = []
    for name, text in texts.items():
        tiny.picture(*size).save(folder / f"{name}.png")
        questions.append(Question(name, text, folder / f"{name}.png", str(folder / name), answer="red"))
    return questions


def checked(prompter: Prompter, questions: list[Question], response: int, with_labels: bool = False) -> None:
    check_lengths([prompter], questions, check_image_tokens([prompter], questions), response, with_labels)


@follows(
    "fitting.py: question {}: its prompt of {} tokens and a response of up to {} are more than the {} positions of {}",
    "prompts.py: question {}: its prompt of {} tokens leaves no room for a response within the {} positions of {}; ask",
)
def test_a_prompt_beyond_the_context_is_named_before_the_run(prompter: Prompter, tmp_path: Path) -> None:
    context = context_of(prompter.config)
    assert context == 512
    questions = asked(tmp_path, {"a": "what?", "b": "w " * 600, "c": "what color?"})
    with pytest.raises(UserError, match=r"question b: its prompt of [\d,]+ tokens leaves no room for a response"):
        check_lengths(
            [prompter],
            questions,
            check_image_tokens([prompter], questions[:1]) | dict.fromkeys((q.image_id for q in questions), (20, 20)),
            8,
            False,
        )
    short = [questions[0], questions[2]]
    length = max(len(prompter(question)[0]) for question in short)
    checked(prompter, short, context - length)
    with pytest.raises(UserError) as caught:
        checked(prompter, short, context - length + 1)
    assert f"its prompt of {length} tokens and a response of up to {context - length + 1} are more than the 512" in str(
        caught.value
    )


def test_large_images_count_with_their_tokens(prompter: Prompter, tmp_path: Path) -> None:
    small, large = asked(tmp_path, {"s": "what?"}, (200, 20)), asked(tmp_path, {"l": "what?"}, (120, 120))
    lengths = [len(prompter(question)[0]) for question in (*small, *large)]
    assert lengths[1] > lengths[0]
    with pytest.raises(UserError, match=f"question l: its prompt of {lengths[1]} tokens"):
        checked(prompter, [*small, *large], 512 - lengths[0])


def test_labels_count_where_they_are_trained_on(prompter: Prompter, tmp_path: Path) -> None:
    questions = [replace(asked(tmp_path, {"a": "what?"})[0], answer="w " * 600)]
    checked(prompter, questions, 8)
    with pytest.raises(UserError, match=r"question a: .* and a response of up to 1,201 are more"):
        checked(prompter, questions, 8, with_labels=True)


@follows("question {} has {} in its answer, which {} in this family's prompts, so it can't be learned; take it out")
@pytest.mark.parametrize("answers", [("<image>",), ("red", "a <image> b")])
def test_a_label_with_an_image_in_it(prompter: Prompter, tmp_path: Path, answers: tuple[str, ...]) -> None:
    question = asked(tmp_path, {"a": "what?"})[0]
    check_texts([prompter], [question])
    with pytest.raises(UserError, match="question a has <image> in its answer, which stands for an image in this"):
        check_texts([prompter], [question, replace(question, answer=answers[0], answers=answers)])


def test_a_label_with_an_end_of_turn_in_it(prompter: Prompter, tmp_path: Path) -> None:
    end = prompter.tokenizer.eos_token
    question = replace(asked(tmp_path, {"a": "what?"})[0], answer=f"red{end}green")
    with pytest.raises(UserError, match=f"question a has {end} in its answer, which ends a response"):
        check_texts([prompter], [question])


def test_every_question_is_looked_at_not_one_an_image_size(prompter: Prompter, tmp_path: Path) -> None:
    questions = asked(tmp_path, {"a": "what?", "b": "what?", "c": "<image> what?"})
    with pytest.raises(UserError, match="question c has <image> in its text"):
        check_texts([prompter], questions)
