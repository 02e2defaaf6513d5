"""What `auto` becomes: the policy term by how right teacher and student are, the split by how alike responses are."""

from pathlib import Path

import pytest

from masters_edge.recipe import Recipe
from masters_edge.responses import choices
from masters_edge.responses.summary import Summary


def recipe(**sections) -> Recipe:
    return Recipe(student="s", teachers=["t"], data={"train": {"source": "x"}}, **sections)


def summary(student: float | None, teacher: float | None, labelled: float = 0.5) -> Summary:
    return Summary(100, 800, 200, 0.5, labelled, 0, student, teacher, 0, 0.0, 0.0)


def dealt(distinct: float, pool: int = 10**6, objective: str = "joint", **sections) -> tuple[int, int, int]:
    asked = recipe(train={"phases": [{"objective": objective, "steps": 10}], "questions_per_step": 16}, **sections)
    found = choices.split(asked, asked.train.phases[0], distinct, pool)
    return found.student, found.teacher, found.questions_per_step


def test_fewer_responses_where_they_are_alike_and_as_many_sequences() -> None:
    assert dealt(8.0) == (4, 4, 16)
    assert dealt(4.1) == (4, 4, 16)
    assert dealt(3.9) == (2, 2, 32)
    assert dealt(1.7) == (1, 1, 64)
    assert dealt(1.0) == (1, 1, 64)  # a reward compares at least two
    assert dealt(1.0, objective="distill") == (0, 1, 128)
    assert dealt(1.7, pool=400) == (2, 2, 32)  # 640 visits of 400 questions would repeat some
    assert dealt(1.7, pool=100) == (4, 4, 16)
    assert dealt(1.0, responses={"student": 0, "teacher": 8}) == (0, 2, 64)
    assert dealt(1.0, responses={"student": 3, "teacher": 2}) == (3, 2, 16)  # five can't be halved


def test_the_choice_is_kept_with_its_reason_and_read_again(tmp_path: Path) -> None:
    asked = recipe(reward={"policy": "auto"}, responses={"split": "auto"})
    out = tmp_path / "policy.json"
    settled = choices.settle_policy(asked, summary(0.5, 0.3), out)
    assert settled.reward.policy != "auto" and "30%" in out.read_text()
    assert choices.settle_policy(asked, summary(0.5, 0.99), out) == settled  # what was chosen stays
    calls: list[int] = []

    def measure() -> float:
        calls.append(1)
        return 1.5

    split = tmp_path / "split.json"
    first = choices.settle_split(asked, asked.train.phases[0], 10**6, split, measure)
    assert first.train.questions_per_step == 64 and first.responses.student == first.responses.teacher == 1
    assert choices.settle_split(asked, asked.train.phases[0], 10**6, split, measure) == first and len(calls) == 1


def test_nothing_is_chosen_where_nothing_is_open(tmp_path: Path) -> None:
    asked = recipe()
    assert choices.settle_policy(asked, summary(0.5, 0.3), tmp_path / "p.json") is asked
    assert choices.settle_split(asked, asked.train.phases[0], 100, tmp_path / "s.json", lambda: 1.0) is asked
    labels = recipe(responses={"split": "auto"}, train={"phases": [{"objective": "labels"}]})
    assert choices.settle_split(labels, labels.train.phases[0], 100, tmp_path / "s.json", lambda: 1.0) is labels
    assert not list(tmp_path.iterdir())


def test_labels_correct_a_teacher_that_is_often_wrong() -> None:
    found = {
        (teacher, labelled): choices.policy(summary(0.5, teacher, labelled)).policy
        for teacher in (0.3, 0.95)
        for labelled in (0.02, 1.0)
    }
    assert found.pop((0.3, 1.0)) == "truncated_is" and set(found.values()) == {"positive"}


@pytest.mark.parametrize("teacher", [None, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("student", [0.1, 0.9])
def test_every_choice_is_a_recipe(teacher: float | None, student: float) -> None:
    chosen = choices.policy(summary(student, teacher))
    valid = recipe(reward={"policy": chosen.policy, "weight": chosen.weight, "kl_beta": chosen.kl_beta})
    assert valid.reward.policy != "auto" and chosen.why
