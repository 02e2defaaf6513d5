"""What a run checks of its data before it trains: enough labels, and the questions that `bench` will ask."""

import json
from pathlib import Path

import pytest

from masters_edge import Recipe, workflow
from masters_edge.benchmarks.suites import SuiteChoice
from masters_edge.common.errors import UserError
from masters_edge.data.questions import read_questions
from masters_edge.plan import _questions
from masters_edge.recipe import dump
from masters_edge.run import cast
from masters_edge.run.folder import Run
from tests.advice import follows
from tests.data.conftest import png

RECIPE = Path("r.yaml")


def recipe_of(folder: Path, answers: list[str | None], **data: object) -> tuple[Recipe, Path]:
    """A recipe over so many questions about an image each, and its path."""
    lines = []
    for number, answer in enumerate(answers):
        (folder / f"{number}.png").write_bytes(png("red"))
        lines.append(json.dumps({"image": f"{number}.png", "question": "what?", "answer": answer}))
    (folder / "q.jsonl").write_text("\n".join(lines) + "\n")
    content = {"student": "s", "teachers": ["t"], "data": {"train": {"source": "q.jsonl"}, "held_out": 0} | data}
    return Recipe.model_validate(content), folder / "r.yaml"


def test_held_out_questions_that_eat_the_labels_say_so(tmp_path: Path) -> None:
    recipe, path = recipe_of(tmp_path, ["a"] * 24, held_out=6, labels=24)
    with pytest.raises(UserError) as caught:
        read_questions(recipe, path)
    assert str(caught.value) == (
        "data.labels asks for 24 labels, but of 24 labelled questions 18 are left after data.held_out (6) and "
        "data.limit (none); ask for at most 18, or hold out fewer"
    )
    with pytest.raises(UserError, match="data.labels asks for 24 labels"):
        _questions(recipe, path)  # `plan` says the same
    recipe, path = recipe_of(tmp_path, ["a"] * 24, held_out=6, labels=25)
    with pytest.raises(UserError, match="25 labels asked for, but there are 18"):
        read_questions(recipe, path)
    recipe, path = recipe_of(tmp_path, ["a"] * 24, held_out=6, labels=18)
    assert len(read_questions(recipe, path).train) == 18


def test_plan_passes_over_data_that_are_not_here_and_over_nothing_else(tmp_path: Path) -> None:
    recipe, path = recipe_of(tmp_path, ["a", "b"], train={"source": "elsewhere.jsonl"})
    questions, said = _questions(recipe, path)
    assert questions is None and "there is no data set " in said[0] and "so no question is taken" in said[0]
    recipe, path = recipe_of(tmp_path, ["a", "b"], held_out=500)
    with pytest.raises(UserError, match="500 held-out questions asked for, but there are 2"):
        _questions(recipe, path)
    recipe, path = recipe_of(tmp_path, ["a", "b"])
    assert [q.answer for q in _questions(recipe, path)[0] or []] == ["a", "b"]


@follows("train.phases.{}.objective is `labels`, but none of the {} training questions has an answer")
def test_a_phase_of_labels_needs_some(tmp_path: Path) -> None:
    recipe, path = recipe_of(tmp_path, [None, None])
    phases = {"phases": [{"objective": "joint"}, {"objective": "labels"}]}
    supervised = Recipe.model_validate(recipe.model_dump() | {"train": phases})
    questions = read_questions(recipe, path)
    cast._check_labels(questions, recipe)
    with pytest.raises(UserError) as caught:
        cast._check_labels(questions, supervised)
    assert str(caught.value).startswith(
        "train.phases.1.objective is `labels`, but none of the 2 training questions has"
    )
    lines = [json.dumps({"image": "0.png", "question": f"what {n}?", "says": "red"}) for n in range(2)]
    (tmp_path / "q.jsonl").write_text("\n".join(lines) + "\n")
    data = {"train": {"source": "q.jsonl", "answer_column": "says"}, "held_out": 0}
    named = Recipe.model_validate(recipe.model_dump() | {"train": phases, "data": data})
    cast._check_labels(read_questions(named, path), named)


@follows("data.test, which bench would ask: {} of {} questions have no answer (the first is {}); add their answers")
@pytest.mark.parametrize(
    ("answers", "test", "expected"),
    [
        (["a", "b"], "nope.jsonl", "data.test, which bench would ask: there is no data set "),
        (
            ["a", None],
            "q.jsonl",
            "which bench would ask: 1 of 2 questions have no answer (the first is q/1)",
        ),
        (["a", "b"], "q.jsonl", None),
        (["a", "b"], None, None),
    ],
)
def test_the_test_questions_are_looked_at_before_the_run(
    tmp_path: Path, answers: list[str | None], test: str | None, expected: str | None
) -> None:
    recipe, path = recipe_of(tmp_path, answers, test=None if test is None else {"source": test})
    if expected is None:
        return cast._check_test(recipe, path)
    with pytest.raises(UserError) as caught:
        cast._check_test(recipe, path)
    assert expected in str(caught.value)


@follows("the run's recipe has no data.test, so there is nothing to ask; add it to {}, or name a --suite")
def test_test_questions_may_be_added_to_the_recipe_after_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, path = recipe_of(tmp_path, ["a", "b"])
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    path.write_text(dump(recipe))
    (run.folder / "run.json").write_text(json.dumps({"schema_version": 1, "recipe": str(path)}))
    with pytest.raises(UserError) as caught:
        workflow._suite(run, recipe, SuiteChoice())
    assert f"no data.test, so there is nothing to ask; add it to {path}, or name a --suite" in str(caught.value)
    added = recipe.model_dump() | {"data": recipe.data.model_dump() | {"test": {"source": "q.jsonl"}}}
    path.write_text(dump(Recipe.model_validate(added)))
    assert [q.id for q in workflow._suite(run, recipe, SuiteChoice()).questions] == ["q/0", "q/1"]
    assert "the run began without data.test; the one that" in " ".join(capsys.readouterr().out.split())
