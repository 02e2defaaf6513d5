"""The report's mask ladders: read from mask.json, drawn, in the page with their figures; damage is one sentence."""

import json
from pathlib import Path

import pytest

from masters_edge.benchmarks import results as results_file
from masters_edge.benchmarks.report import figures, ladder, report
from masters_edge.common.errors import UserError
from tests.benchmarks import sample

pytest.importorskip("matplotlib")

NAME = "<b>14B $x_1$"


def write(run: Path, teachers: int = 2, version: int = 1) -> Path:
    rungs = [(0.0, 97.5, 0.0), (0.05, 97.6, 0.0001), (0.1, 96.2, 0.0049), (0.2, 19.3, 0.3488)]
    teacher = {
        "source": f"/models/{NAME}",
        "r_max": 0.1,
        "step": 0.025,
        "rule": "largest ratio that keeps 95% of it",
        "accuracy_is": "right answers, %",
        "questions": 1500,
        "ladder": [{"ratio": r, "accuracy": a, "jsd_to_itself": d} for r, a, d in rungs],
    }
    path = run / "mask.json"
    path.write_text(json.dumps({"schema_version": version, "teachers": [teacher] * teachers}))
    return path


def test_reads_what_a_run_wrote(tmp_path: Path) -> None:
    (found,) = ladder.read(write(tmp_path, teachers=1))
    assert (found.name, found.r_max, found.questions) == (NAME, 0.1, 1500)
    assert found.rungs[3] == (0.2, 19.3, 0.3488)
    assert ladder.read(tmp_path / "none.json") == ()


def test_fields_are_those_of_the_product(tmp_path: Path) -> None:
    from masters_edge.teacher import ladder

    assert ladder.SCHEMA_VERSION == ladder.SCHEMA_VERSION


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 1}', '{"schema_version": 1, "teachers": [{}]}'])
def test_damage_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "mask.json").write_text(text)
    with pytest.raises(UserError, match="mask.json can't be read"):
        ladder.read(tmp_path / "mask.json")
    with pytest.raises(UserError, match="schema version 2, expected 1"):
        ladder.read(write(tmp_path, version=2))


@pytest.mark.parametrize("teachers", [1, 2, 5])
def test_draws_any_number_of_teachers(tmp_path: Path, teachers: int) -> None:
    found = ladder.read(write(tmp_path, teachers))
    for narrow in (False, True):
        svg = figures.ladder_svg(found, narrow)
        assert "chosen 0.10" in svg and "JSD to itself" in svg and "&lt;b&gt;" in svg and "var(--ink)" in svg


def test_the_page_holds_figures_and_picture(tmp_path: Path) -> None:
    results_file.write(tmp_path / "results.json", sample.Results(measurements=sample.results().measurements[:1]))
    run = sample.write_run(tmp_path / "run")
    without = report(tmp_path / "results.json", run, tmp_path / "a").html.read_text()
    assert "bears" not in without
    write(run)
    text = report(tmp_path / "results.json", run, tmp_path / "b").html.read_text()
    assert "How much masking each teacher bears" in text and "(chosen)" in text and "0.3488" in text
    assert "<b>" not in text and "1,500 questions" in text
