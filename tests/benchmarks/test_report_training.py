import json
from pathlib import Path
from typing import Any

import pytest

from masters_edge.benchmarks.report import training
from masters_edge.common.errors import UserError
from tests.benchmarks import sample


def read(tmp_path: Path, *rows: Any, tail: str = "") -> training.Curve:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return training.read(path)


def row(step: int, accuracy: float | None = None, ratio: float | None = None, **more: Any) -> dict[str, Any]:
    return {"step": step, "eval_accuracy": accuracy, "mask_ratio": ratio, **more}


def test_demo_curve(tmp_path: Path) -> None:
    sample.write_metrics(tmp_path / "metrics.jsonl")
    curve = training.read(tmp_path / "metrics.jsonl")
    assert [step for step, _ in curve.accuracy] == list(range(0, 1501, 100))
    assert [ratio for step, ratio in curve.mask if step % 300 == 0] == [0.2, 0.2, 0.15, 0.1, 0.05, 0.0]
    assert curve.phases == ((0, "joint"),) and not curve.cut


def test_any_key_may_be_missing(tmp_path: Path) -> None:
    curve = read(tmp_path, {}, {"loss": 1.0}, {"step": 5}, row(6, 50.0), {"step": 7, "eval_accuracy": float("nan")})
    assert curve.accuracy == ((6, 50.0),) and curve.mask == ()
    assert training.missing(read(tmp_path, {"step": 5})) == "The training metrics hold no held-out accuracy"
    assert training.missing(read(tmp_path)) is not None


def test_steps_run_again_after_a_resume_count_once(tmp_path: Path) -> None:
    curve = read(tmp_path, row(0, 10, 0.2), row(10, 20, 0.2), row(20, 30, 0.1), row(10, 21, 0.2), row(20, 31, 0.1))
    assert curve.accuracy == ((0, 10), (10, 21), (20, 31))


def test_phases_stand_one_after_another(tmp_path: Path) -> None:
    rows = [row(0, 10, 0.2, phase=0, objective="distill"), row(50, 20, 0.0, phase=0, objective="distill")]
    rows += [row(0, 20, 0.2, phase=1, objective="reward"), row(30, 25, 0.1, phase=1, objective="reward")]
    curve = read(tmp_path, *rows)
    assert curve.accuracy == ((0, 10), (50, 20), (80, 25))
    assert curve.phases == ((0, "distill"), (50, "reward"))
    assert curve.mask == ((0, 0.2), (50, 0.0), (80, 0.1))


def test_an_unfinished_last_line_is_left_out_and_said(tmp_path: Path) -> None:
    curve = read(tmp_path, row(1, 50.0), tail='{"step": 2, "eval_a')
    assert curve.accuracy == ((1, 50.0),) and curve.cut
    assert not read(tmp_path, row(1, 50.0), tail='{"step": 2}').cut


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{oops", "line 2: this is no JSON"),
        ("[1]", "found list"),
        ('{"step": "a"}', "step is 'a'"),
        ('{"step": -1}', "-1"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(UserError, match="line 2") as caught:
        training.read(path)
    assert said in str(caught.value) and str(path) in str(caught.value)
