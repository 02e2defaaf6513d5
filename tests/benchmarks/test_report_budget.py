"""Budgets: limits as people write them, the best bundle inside them, and what comes closest."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from masters_edge import cli
from masters_edge.benchmarks import results as results_file
from masters_edge.benchmarks.report import budget, gather
from masters_edge.benchmarks.results import Measurement, Results
from masters_edge.common.errors import UserError
from tests.benchmarks import sample


def found(tmp_path: Path, *rows: Measurement) -> gather.Gathered:
    results_file.write(tmp_path / "results.json", Results(measurements=rows))
    return gather.gather([tmp_path / "results.json"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("ttft=500ms", 500), ("ttft=0.5s", 500), ("answer=1s", 1000), ("answer=2min", 120_000), ("ttft=800us", 0.8),
        ("size=200MB", 200), ("size=1.5GB", 1500), ("size=200MiB", 209.7152), ("size=900kB", 0.9),
        ("size=5000B", 0.005), ("memory=300MiB", 300), ("memory=1GiB", 1024), ("memory=300mb", 286.102),
        ("accuracy=80", 80),
        ("accuracy=80.5%", 80.5), ("tokens=20", 20), ("tokens = 20 tokens/s", 20), ("energy=20mJ", 0.02),
    ],
)  # fmt: skip
def test_units_are_understood(text: str, value: float) -> None:
    (limit,) = budget.parse(text)
    assert limit.value == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("speed=3", "use some of ttft, answer, size, memory, accuracy, tokens"),
        ("ttft", "use some of"),
        ("", "use some of"),
        ("ttft=500", r"\(us, ms, s, min\)"),
        ("size=20ms", r"\(B, kB, MB, GB, KiB, MiB, GiB\)"),
        ("size=-2MB", "no figure"),
        ("size=0MB", "room for nothing"),
        ("ttft=1s,ttft=2s", "limited twice"),
    ],
)
def test_what_is_no_limit_is_said(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        budget.parse(text)


def test_the_most_accurate_that_fits_is_chosen(tmp_path: Path) -> None:
    rows = (
        sample.measurement("best", right=8800, total_ms=30.0),
        sample.measurement("middle", right=8400, total_ms=12.0),
        sample.measurement("fast", right=7600, total_ms=4.0),
        sample.measurement("teacher", right=9600, total_ms=2.0, role="teacher"),  # no file to ship
    )
    (verdict,) = budget.choose(found(tmp_path, *rows), budget.parse("answer=20ms"))
    assert verdict.entry.name == "middle" and verdict.fits and "2 of 3" in verdict.remarks[0]
    (verdict,) = budget.choose(found(tmp_path, *rows), budget.parse("accuracy=80"))
    assert verdict.entry.name == "best"
    (verdict,) = budget.choose(found(tmp_path, *rows), budget.parse("tokens=400"))
    assert verdict.entry.name == "fast"


def test_a_lead_that_may_be_chance_gives_way_to_speed(tmp_path: Path) -> None:
    rows = (
        sample.measurement("slow", right=8060, total_ms=12.0),
        sample.measurement("quick", right=8055, total_ms=6.0),
        sample.measurement("quickest", right=7000, total_ms=3.0),
    )
    (verdict,) = budget.choose(found(tmp_path, *rows), budget.parse("answer=20ms"))
    assert verdict.entry.name == "quick"
    assert "slow has 0.1 points more (-1.0 to +1.1), which may be chance, and takes 12.0 ms" in verdict.remarks[1]


def test_what_comes_closest_says_by_how_much(tmp_path: Path) -> None:
    rows = (
        sample.measurement("a", total_ms=20.0, size_bytes=1_000_000),
        sample.measurement("b", total_ms=12.0, size_bytes=2_000_000),
    )
    limits = budget.parse("answer=10ms,size=1MB,accuracy=90")
    (verdict,) = budget.choose(found(tmp_path, *rows), limits)
    assert not verdict.fits and verdict.entry.name == "a"  # misses the latency by 100%, b misses 20% and 100%
    text = "\n".join(budget.lines([verdict], limits))
    assert "nothing fits; closest: a" in text
    assert "latency of a whole answer 20.0 ms is 10.0 ms (100%) above 10ms" in text
    assert "accuracy 82.7% is 7.3% (8%) below 90" in text
    assert "file size" not in "\n".join(verdict.remarks)


def test_what_was_not_measured_never_fits(tmp_path: Path) -> None:
    (verdict,) = budget.choose(found(tmp_path, sample.measurement()), budget.parse("energy=1J"))
    assert not verdict.fits and "wasn't measured, so 1J can't be promised" in verdict.remarks[0]


def test_each_device_has_a_verdict(tmp_path: Path) -> None:
    verdicts = budget.choose(found(tmp_path, *sample.fleet().measurements), budget.parse("answer=3ms,size=500kB"))
    assert [(v.title.split()[0], v.fits) for v in verdicts] == [("host", True), ("Raspberry", False)]
    with pytest.raises(UserError, match="none was measured"):
        budget.choose(found(tmp_path, sample.results().measurements[0]), budget.parse("answer=1s"))


def test_previews_are_chosen_by_speed(tmp_path: Path) -> None:
    rows = [
        sample.measurement(name, total_ms=ms).model_copy(update={"accuracy": None, "suite": None})
        for name, ms in (("a", 9.0), ("b", 4.0))
    ]
    (verdict,) = budget.choose(found(tmp_path, *rows), budget.parse("size=1MB"))
    assert verdict.entry.name == "b"


def test_the_command_says_by_its_status_whether_one_fits(tmp_path: Path) -> None:
    results_file.write(tmp_path / "results.json", sample.fleet())
    place = str(tmp_path / "results.json")
    assert CliRunner().invoke(cli.app, ["report", place, "--budget", "answer=3ms"]).exit_code == 0
    assert CliRunner().invoke(cli.app, ["report", place, "--budget", "answer=3us"]).exit_code == 1
    wrong = CliRunner().invoke(cli.app, ["report", place, "--budget", "speed=3"])
    assert isinstance(wrong.exception, UserError)
    assert not (tmp_path / "report").exists()  # a budget only prints
