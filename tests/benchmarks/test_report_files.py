"""Several results files become one report; the sheet and the Markdown hold every figure and can't be turned against
who opens them."""

import csv
import io
from datetime import timedelta
from pathlib import Path

import pytest

from masters_edge.benchmarks import results as results_file
from masters_edge.benchmarks.report import gather, markdown, sheet
from masters_edge.benchmarks.results import Measurement, Results
from masters_edge.common.errors import UserError
from tests.benchmarks import sample


def write(path: Path, *rows: Measurement) -> Path:
    results_file.write(path, Results(measurements=rows))
    return path


def test_files_and_folders_are_merged_and_the_newer_stays(tmp_path: Path) -> None:
    old = sample.measurement("a", total_ms=9.0)
    new = sample.measurement("a", total_ms=5.0, ended=sample.NOW + timedelta(hours=1))
    first = write(tmp_path / "run" / "bench" / "results.json", new, sample.measurement("b"))
    write(tmp_path / "other" / "results.json", old, sample.measurement("a", device=sample.BOARD))
    for places in ([first, tmp_path / "other"], [tmp_path / "other", tmp_path / "run"]):
        found = gather.gather(places)
        assert len(found.entries) == 3 and found.runs == ()
        (host,) = [e for e in found.entries if e.name == "a" and e.m.device == sample.DEVICE]
        assert host.m.latency.total_ms is not None and host.m.latency.total_ms.median == 5.0
        assert host.folder == first.parent
        assert len({e.number for e in found.entries if e.name == "a"}) == 1  # one number on all devices
    (tmp_path / "run" / "run.json").write_text("{}")
    assert gather.gather([first]).runs == (tmp_path / "run",)


def test_one_name_with_several_threads_says_which(tmp_path: Path) -> None:
    path = write(tmp_path / "results.json", sample.measurement("a"), sample.measurement("a", threads=4))
    assert [e.name for e in gather.gather([path]).entries] == ["a (2 threads)", "a (4 threads)"]
    path = write(tmp_path / "results.json", sample.measurement("a"), sample.measurement("a", runtime="openvino"))
    assert [e.name for e in gather.gather([path]).entries] == ["a (onnxruntime)", "a (openvino)"]


def test_what_is_no_result_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no results.json"):
        gather.gather([tmp_path])
    (tmp_path / "results.json").write_text('{"schema_version": 1, "measurements": []}')
    with pytest.raises(UserError, match="results schema 1, .* reads 2 and 3; remove it, and measure again"):
        gather.gather([tmp_path])


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_sheet_holds_every_figure_with_its_unit(tmp_path: Path) -> None:
    found = gather.gather([write(tmp_path / "results.json", *sample.fleet().measurements)])
    rows = read(sheet.render(found))
    assert len(rows) == 27
    board = next(row for row in rows if row["name"] == "onnx-int8" and row["device kind"] == "ssh")
    expected = {
        "accuracy (%)": "83.49", "answer median (ms)": "9.88", "answer p90 (ms)": "12.84",
        "decode median (tokens/s)": "202.4", "agreement with PyTorch (%)": "98.47",
        "speed left after the loop (%)": "80.0", "peak memory (MiB)": "112.4",
        "temperature after (C)": "61", "file size (bytes)": "454440", "case 224x224 short ttft median (ms)": "6.916",
        "case 512x512 long prompt (tokens)": "436",
    }  # fmt: skip
    for key, value in expected.items():
        assert float(board[key]) == pytest.approx(float(value), rel=2e-3), key
    assert board["device address"] == "ssh://pi@kitchen.local" and board["energy of an answer (J)"] == ""
    skipped = next(row for row in rows if row["name"] == "executorch-fp32" and row["device kind"] == "ssh")
    assert "longer than the context" in skipped["case 512x512 long skipped"]


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1"])
def test_no_cell_is_a_formula(tmp_path: Path, text: str) -> None:
    found = gather.gather(
        [write(tmp_path / "results.json", sample.measurement(text, path=text, versions={text: text}))]
    )
    for row in csv.reader(io.StringIO(sheet.render(found), newline="")):
        assert not [cell for cell in row if cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "|"))]
    shown = text.replace("\r", "")  # no figure of a results file keeps what a terminal obeys
    assert read(sheet.render(found))[0]["name"] == f"'{shown}"


def test_negative_numbers_stay_numbers(tmp_path: Path) -> None:
    cold = sample.measurement(conditions=sample.Conditions(celsius_before=-12.5))
    found = gather.gather([write(tmp_path / "results.json", cold)])
    assert read(sheet.render(found))[0]["temperature before (C)"] == "-12.5"


def test_markdown_is_a_table_whatever_names_hold(tmp_path: Path) -> None:
    evil = sample.measurement("a|b <img src=x> [c](http://d) `e` *f*\n# g")
    found = gather.gather([write(tmp_path / "results.json", evil)])
    text = markdown.render(found, "title")
    (row,) = [line for line in text.splitlines() if "img src" in line and line.startswith("| 1 |")]
    heading = next(line for line in text.splitlines() if line.startswith("| \\#"))
    plain = row.replace("\\|", "")
    assert plain.count("|") == heading.count("|") and "<img" not in text and "\n# g" not in text
    assert "\\[c\\](http:&#8203;//d)" in row and "\\`e\\` \\*f\\*" in row
