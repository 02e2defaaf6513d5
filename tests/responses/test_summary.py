"""What a phase's responses are like, counted by hand."""

import json
from pathlib import Path

import pytest

from masters_edge.recipe.schema import Reward
from masters_edge.responses import store, summary


def row(question: str, jsd: float, r_acc: float | None, count: int, of_student: int, **other) -> store.Response:
    values = dict(stage=0, teacher=0, ratio=0.0, source="both", token_ids=[1], text="x", log_probs=[-1.0])
    values |= dict(label="x", label_source="label", metric="exact_match", scorer="rule:exact_match") | other
    return store.Response(question_id=question, jsd=jsd, r_acc=r_acc, count=count, student_count=of_student, **values)


def test_counts_and_means(tmp_path: Path) -> None:
    rows = [
        row("a", 0.1, 1.0, 6, 2),
        row("a", 0.5, 0.0, 2, 2),
        row("b", 0.2, 1.0, 8, 4),  # all alike: no advantage
        row("c", 0.1, 1.0, 4, 0, label_source="teacher"),  # the teacher's own label says nothing of the teacher
        row("c", 0.3, 0.0, 4, 4, label_source="teacher"),
        row("d", 0.1, None, 5, 1, scorer="judge:big"),
        row("d", 0.4, 1.0, 3, 3, scorer="judge:big"),
    ]
    store.write(tmp_path / "part-0.parquet", rows[:3])
    store.write(tmp_path / "part-1.parquet", rows[3:])
    paths, out = [tmp_path / "part-0.parquet", tmp_path / "part-1.parquet"], tmp_path / "responses.json"
    found = summary.of(paths, Reward(), out)
    assert (found.groups, found.responses, found.distinct, found.unscored) == (4, 32, 7, 5)
    assert found.labelled == 0.75
    assert found.no_advantage == 0.5  # b, and d: one scored response alone
    assert found.student == pytest.approx((2 + 4 + 3) / (2 + 2 + 4 + 3))
    assert found.teacher == pytest.approx((4 + 4) / (4 + 4))
    sentence = found.sentence()
    assert "50% of the groups carry no advantage" in sentence and "5 responses unscored" in sentence
    assert "student 82% and teacher 100% right on labels" in sentence
    assert json.loads(out.read_text())["groups"] == 4
    store.write(tmp_path / "part-0.parquet", rows[:1])
    assert summary.of(paths, Reward(), out) == found  # kept
