"""What a phase's responses are like, counted by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from masters_edge.common.errors import UserError
from masters_edge.recipe import Recipe
from masters_edge.recipe.schema import Reward
from masters_edge.responses import store, summary
from masters_edge.responses.generate import Generator


def row(question: str, jsd: float, r_acc: float | None, count: int, of_student: int, **other) -> store.Response:
    values = dict(stage=0, teacher=0, ratio=0.0, source="both", token_ids=[1], text="x", log_probs=[-1.0])
    values |= dict(label="x", label_source="label", metric="exact_match", scorer="rule:exact_match") | other
    return store.Response(question_id=question, jsd=jsd, r_acc=r_acc, count=count, student_count=of_student, **values)


def test_counts_and_means(tmp_path: Path) -> None:
    rows = [
        row("a", 0.1, 1.0, 6, 2),
        row("a", 0.5, 0.0, 2, 2, cut=True),
        row("b", 0.2, 1.0, 8, 4),  # all alike: no advantage
        row("c", 0.1, 1.0, 4, 0, label_source="teacher"),  # the teacher's own label says nothing of the teacher
        row("c", 0.3, 0.0, 4, 4, label_source="teacher"),
        row("d", 0.1, None, 5, 1, scorer="judge:big"),
        row("d", 0.4, 1.0, 3, 1, scorer="judge:big", cut=True),
    ]
    store.write(tmp_path / "part-0.parquet", rows[:3])
    store.write(tmp_path / "part-1.parquet", rows[3:])
    paths, out = [tmp_path / "part-0.parquet", tmp_path / "part-1.parquet"], tmp_path / "responses.json"
    found = summary.of(paths, Reward(), out)
    assert (found.groups, found.responses, found.distinct, found.unscored) == (4, 32, 7, 5)
    assert found.labelled == 0.75
    assert found.no_advantage == 0.5  # b, and d: one scored response alone
    assert found.student == pytest.approx((2 + 4 + 1) / (2 + 2 + 4 + 1))
    assert found.teacher == pytest.approx((4 + 4 + 2) / (4 + 4 + 2))
    assert (found.cut, found.student_cut, found.teacher_cut) == (5, 3 / 14, 2 / 18)
    sentence = found.sentence()
    assert "50% of the groups carry no advantage" in sentence and "5 responses unscored" in sentence
    assert "student 78% and teacher 100% right on labels" in sentence
    assert "5 cut by responses.max_new_tokens, which count as wrong (21% of the student's and 11% of the" in sentence
    assert json.loads(out.read_text())["groups"] == 4
    store.write(tmp_path / "part-0.parquet", rows[:1])
    assert summary.of(paths, Reward(), out) == found  # kept
    out.write_text(json.dumps(json.loads(out.read_text()) | {"schema_version": 1}))
    with pytest.raises(UserError, match="version"):
        summary.read(out)
    assert summary.of(paths, Reward(), out).responses < found.responses  # summed up anew


def test_a_teachers_own_answer_that_is_empty_or_was_cut_is_no_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    said = [("a", "blue", False), ("b", "a blue circle on a", True), ("c", "", False)]
    store.write(tmp_path / "part-0.parquet", [dict(zip(("question_id", "text", "cut"), row)) for row in said])
    monkeypatch.setattr(Generator, "_made", lambda *_: [tmp_path / "part-0.parquet"])
    recipe = Recipe(student="s", teachers=["t"], data={"train": {"source": "x"}})  # type: ignore[arg-type]
    unused: Any = None
    assert Generator(recipe, tmp_path, unused, unused, unused).labels([]) == {"a": "blue"}
    assert "2 of the teacher's own 3 answers are no labels" in " ".join(capsys.readouterr().out.split())
