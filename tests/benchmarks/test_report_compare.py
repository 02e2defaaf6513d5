"""Two sets of results: what got better and worse beyond noise, paired by answers where both kept them."""

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from masters_edge import cli
from masters_edge.benchmarks import results as results_file
from masters_edge.benchmarks.report import compare, gather
from masters_edge.benchmarks.results import Measurement, Results, Stage
from masters_edge.common.errors import UserError
from tests.benchmarks import sample


def gathered(folder: Path, *rows: Measurement) -> gather.Gathered:
    results_file.write(folder / "results.json", Results(measurements=rows))
    return gather.gather([folder])


def outcomes(found: compare.Comparison, name: str = "student int4") -> dict[str, str]:
    return {line.figure: line.outcome for line in found.lines if line.name == name}


def timed(total_ms: float, spread: float, n: int = 200) -> Measurement:
    m = sample.measurement()
    stage = Stage(median=total_ms, p90=total_ms * 1.2, spread=spread, n=n)
    return m.model_copy(update={"latency": m.latency.model_copy(update={"total_ms": stage})})


def with_answers(folder: Path, scores: list[float], name: str = "student int4", **changes: Any) -> Measurement:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": f"q{i}", "text": "x", "score": score}) for i, score in enumerate(scores)]
    (folder / "answers.jsonl").write_text("\n".join(lines) + "\n")
    return sample.measurement(name, right=sum(scores), asked=len(scores), answers="answers.jsonl", **changes)


@pytest.mark.parametrize(
    ("new", "spread", "outcome"),
    [
        (12.0, 1.0, "worse"),
        (8.0, 1.0, "better"),
        (10.3, 0.1, "no difference beyond noise"),  # sure of itself, but runs differ by so much
        (12.0, 25.0, "no difference beyond noise"),  # its own spread hides it
        (10.0, 1.0, "no difference beyond noise"),
    ],
)
def test_latency_beyond_noise(tmp_path: Path, new: float, spread: float, outcome: str) -> None:
    found = compare.compare(gathered(tmp_path / "a", timed(10.0, spread)), gathered(tmp_path / "b", timed(new, spread)))
    assert outcomes(found)["whole answer, ms"] == outcome


def test_more_tokens_are_better_and_more_bytes_are_worse(tmp_path: Path) -> None:
    old = sample.measurement(total_ms=10.0, size_bytes=1000, peak_rss_mib=100)
    new = sample.measurement(total_ms=5.0, size_bytes=1001, peak_rss_mib=103)
    found = outcomes(compare.compare(gathered(tmp_path / "a", old), gathered(tmp_path / "b", new)))
    assert found["decode, tokens/s"] == "better" and found["file size"] == "worse"
    assert found["peak memory, MiB"] == "no difference beyond noise"


def test_pairs_see_what_shares_alone_do_not(tmp_path: Path) -> None:
    """40 of 2,000 questions lost and 8 won: beyond chance for pairs, far inside two independent intervals."""
    rng = random.Random(0)
    before = [float(rng.random() < 0.8) for _ in range(2000)]
    right, wrong = ([i for i, score in enumerate(before) if score == kind] for kind in (1.0, 0.0))
    after = list(before)
    for i in right[:40]:
        after[i] = 0.0
    for i in wrong[:8]:
        after[i] = 1.0
    old, new = with_answers(tmp_path / "a", before), with_answers(tmp_path / "b", after)
    paired = compare.compare(gathered(tmp_path / "a", old), gathered(tmp_path / "b", new))
    assert outcomes(paired)["accuracy, %"] == "worse"
    (line,) = [line for line in paired.lines if line.figure == "accuracy, %"]
    assert line.change == "-1.6 (-2.3 to -0.9)" and any("McNemar" in remark for remark in paired.remarks)
    (tmp_path / "a" / "answers.jsonl").unlink()
    alone = compare.compare(gathered(tmp_path / "a", old), gathered(tmp_path / "b", new))
    assert outcomes(alone)["accuracy, %"] == "no difference beyond noise"
    assert any("independent shares" in remark for remark in alone.remarks)


def test_partial_credit_is_paired_too(tmp_path: Path) -> None:
    rng = random.Random(1)
    before = [rng.choice((0.0, 0.5, 0.75, 1.0)) for _ in range(600)]
    after = [min(1.0, score + 0.25 * (rng.random() < 0.3)) for score in before]
    rows = with_answers(tmp_path / "a", before), with_answers(tmp_path / "b", after)
    found = compare.compare(gathered(tmp_path / "a", rows[0]), gathered(tmp_path / "b", rows[1]))
    assert outcomes(found)["accuracy, %"] == "better" and any("bootstrap" in remark for remark in found.remarks)


def test_answers_of_another_measurement_are_not_paired(tmp_path: Path) -> None:
    old, new = with_answers(tmp_path / "a", [1.0, 0.0, 1.0]), with_answers(tmp_path / "b", [1.0, 1.0, 1.0])
    rows = [
        {"id": f"q{i}", "score": score} for i, score in enumerate((1, 0, 0))
    ]  # two right fewer than results.json says
    (tmp_path / "b" / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare.compare(gathered(tmp_path / "a", old), gathered(tmp_path / "b", new))
    assert any("independent shares" in remark for remark in found.remarks)
    (tmp_path / "b" / "answers.jsonl").write_text('{"id": "q0", "score": 1}\n{"id"')
    with pytest.raises(UserError, match="answers.jsonl, line 2: this is no answer"):
        compare.compare(gathered(tmp_path / "a", old), gathered(tmp_path / "b", new))


def test_other_questions_are_not_compared(tmp_path: Path) -> None:
    new = sample.measurement()
    new = new.model_copy(update={"suite": new.suite.model_copy(update={"sha256": "00" * 32})})
    found = compare.compare(gathered(tmp_path / "a", sample.measurement()), gathered(tmp_path / "b", new))
    assert outcomes(found)["accuracy, %"] == "not comparable"
    assert any("other questions were asked" in remark for remark in found.remarks)


def test_what_stands_in_one_alone_is_listed_and_conditions_are_remarked(tmp_path: Path) -> None:
    busy = sample.measurement(
        "both", conditions=sample.Conditions(load_before=3.0, other_cores=0.9), versions={"onnxruntime": "1.40"}
    )
    found = compare.compare(
        gathered(tmp_path / "a", sample.measurement("both"), sample.measurement("gone")),
        gathered(tmp_path / "b", busy, sample.measurement("came"), sample.measurement("both", device=sample.BOARD)),
    )
    assert [text.split(" on ")[0] for text in found.only_old] == ["gone"]
    assert [text.split(" on ")[0] for text in found.only_new] == ["came", "both"]
    assert any("busy" in remark for remark in found.remarks)
    assert any("onnxruntime 1.32.0 to 1.40" in remark for remark in found.remarks)
    text = compare.render(found, ["a"], ["b"])
    assert "only in the old: gone" in text and "no difference beyond noise" in text


def test_the_terminal_table_fits_80_columns(tmp_path: Path) -> None:
    fleet = sample.fleet().measurements
    found = compare.compare(gathered(tmp_path / "a", *fleet), gathered(tmp_path / "b", *fleet))
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(compare.table(found))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80 and "…+0.4)" in text and "over ssh" in text
    assert "better" not in text and len(found.lines) == 27 * 6
    nothing = compare.compare(gathered(tmp_path / "c", sample.measurement("x")), gathered(tmp_path / "d", timed(1, 1)))
    assert "No measurement stands in both" in compare.render(nothing, ["a"], ["b"])


def test_the_command_takes_files_and_run_folders(tmp_path: Path) -> None:
    gathered(tmp_path / "run" / "bench", sample.measurement(total_ms=20.0))
    gathered(tmp_path / "new", sample.measurement(total_ms=10.0))
    done = CliRunner().invoke(
        cli.app, ["report", "--compare", str(tmp_path / "run"), str(tmp_path / "new" / "results.json")]
    )
    assert done.exit_code == 0, done.exception
    assert "whole answer, ms -50.0%" in (tmp_path / "new" / "report" / "compare.md").read_text()
    wrong = CliRunner().invoke(cli.app, ["report", "x", "--compare", "a", "b"])
    assert isinstance(wrong.exception, UserError) and "leave RESULTS" in str(wrong.exception)
