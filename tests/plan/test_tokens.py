"""Counted ahead and counted in a tiny run: questions and responses exactly, tokens for the lengths that came up."""

from pathlib import Path
from typing import Any

import pytest

from masters_edge.distill import distill
from masters_edge.plan import PlanOptions, plan, prompts
from masters_edge.plan.disk import PhaseDisk
from masters_edge.recipe import load
from masters_edge.responses import store
from masters_edge.training import Visits


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((run / "phase-0-joint/responses").rglob("*.parquet")) for row in store.read(path)]


@pytest.fixture
def home(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tiny_recipe.parent)
    monkeypatch.setattr(prompts, "SAMPLE", 10**6)  # all questions, so that the mean is the mean
    return tiny_recipe


@pytest.mark.wide
def test_counts_are_those_of_a_run(home: Path) -> None:
    """Responses of one token each: none can end earlier, so what is generated is exactly the bound."""
    overrides = ["responses.max_new_tokens=1", "train.gradient_checkpointing=false"]
    made = plan(home, overrides)
    run = distill(home, overrides)
    counted, rows = made.phases[0].tokens, rows_of(run.folder)
    for index, stage in enumerate(counted.stages):
        here = [row for row in rows if row["stage"] == index]
        assert stage.asked == len({row["question_id"] for row in here})
        assert stage.student_responses + stage.teacher_responses == sum(row["count"] for row in here)
        assert stage.generated_student + stage.generated_teacher == sum(r["count"] * len(r["token_ids"]) for r in here)
        assert stage.visits == 2 * 4  # two steps of four questions
    assert counted.evaluations == 3  # steps 0, 5 and 10


@pytest.mark.wide
def test_tokens_are_bounds_and_exact_for_the_lengths_that_came_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    original = Visits.__getitem__
    monkeypatch.setattr(Visits, "__getitem__", lambda self, i: seen.append(original(self, i)) or seen[-1])
    made = plan(home)
    run = distill(home)
    counted, rows = made.phases[0].tokens, rows_of(run.folder)
    generated = sum(row["count"] * len(row["token_ids"]) for row in rows)
    assert generated <= counted.sum("generated_student") + counted.sum("generated_teacher")
    trained = [sum(len(row["token_ids"]) - 1 for row in group.rows) for group in seen]
    prompt = made.lengths.student_prompt  # the same for every question of easy-VQA's images, up to its words
    assert sum(trained) + prompt * len(seen) <= counted.sum("trained_student")
    assert len(seen) == counted.sum("visits") == 40
    # The same row, with what came up: distinct responses of a visit and their mean length.
    distinct = sum(len(group.rows) for group in seen) / len(seen)
    mean = sum(len(r["token_ids"]) for group in seen for r in group.rows) / (distinct * len(seen))
    assert len(seen) * distinct * (mean - 1) == pytest.approx(sum(trained))


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.wide
@pytest.mark.parametrize("overrides", [[], ["train.teacher_logits=cached"], ["train.lora={rank: 4}"]])
def test_disk_is_what_a_run_leaves(home: Path, overrides: list[str]) -> None:
    run = distill(home, overrides)
    rows = rows_of(run.folder)
    questions = {(row["stage"], row["question_id"]) for row in rows}
    mean = sum(len(row["token_ids"]) for row in rows) / len(rows)
    made = plan(home, overrides, PlanOptions(response_tokens=mean))
    disk: PhaseDisk = made.phases[0].disk
    share = len(rows) / len(questions) / 8  # identical responses are kept once; the plan takes all for distinct
    assert 0.5 < share <= 1
    folder = run.folder / "phase-0-joint"
    print(disk, on_disk(folder / "responses"), on_disk(folder / "checkpoints"), on_disk(run.student), share)
    assert disk.responses == pytest.approx(on_disk(folder / "responses"), rel=0.2)
    assert disk.checkpoints == pytest.approx(on_disk(folder / "checkpoints"), rel=0.2)
    assert disk.student == pytest.approx(on_disk(run.student), rel=0.2)
    assert load(home, overrides).train.save_every == 2
