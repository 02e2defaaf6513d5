"""Run folders and results of strangers, put before `report`: a report, or one sentence, within a moment."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from masters_edge.benchmarks import results as results_file
from masters_edge.benchmarks.report import gather, ladder, page, report, tradeoff, training
from masters_edge.benchmarks.results import Results, write
from masters_edge.common.errors import UserError
from tests.benchmarks.sample import DEVICE, measurement
from tests.hostile.command_line import run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder with one measurement."""
    folder = tmp_path / "run"
    (folder / "bench").mkdir(parents=True)
    (folder / "run.json").write_text('{"schema_version": 1}')
    write(folder / "bench" / "results.json", Results(measurements=(measurement(),)))
    return folder


BOMB = "a: &a {k: x}\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} {{{', '.join(f'k{n}: *{chr(97 + i)}' for n in range(9))}}}\n" for i in range(9)
)


def changed(**values: Any) -> Callable[[Path], None]:
    def made(folder: Path) -> None:
        path = folder / "bench" / "results.json"
        found = json.loads(path.read_text())
        found["measurements"][0] |= values
        path.write_text(json.dumps(found))

    return made


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content)


def replaced(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def made(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return made


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


LADDER = '{"schema_version": 1, "teachers": [{"source": "t", "ladder": [], "r_max": 0.1, "rule": "", "accuracy_is": "",'
REFUSED = {
    "aliases": ("recipe.yaml", text("recipe.yaml", BOMB), "aliases"),
    "an alias in itself": ("recipe.yaml", text("recipe.yaml", "a: &a [*a]"), "inside of what it repeats"),
    "objects": ("recipe.yaml", text("recipe.yaml", "!!python/object/apply:os.system ['id']"), "not valid YAML"),
    "depth": ("recipe.yaml", text("recipe.yaml", "[" * 1500), "recipe"),
    "a long recipe": ("recipe.yaml", text("recipe.yaml", "a" * (2 << 20)), "more than 1,048,576 bytes"),
    "a recipe for ever": ("recipe.yaml", replaced("recipe.yaml", os.mkfifo), "no regular file"),
    "settings in settings": ("run.json", text("run.json", '{"a":' * 5000), "can't be read"),
    "metrics for ever": ("metrics.jsonl", replaced("metrics.jsonl", os.mkfifo), "no regular file"),
    "a step of no run": (
        "metrics.jsonl",
        text("metrics.jsonl", '{"step": 1' + "0" * 400 + "}\n"),
        "a whole number of steps",
    ),
    "metrics in metrics": ("metrics.jsonl", text("metrics.jsonl", "[" * 5000 + "\n{}\n"), "no JSON"),
    "a ladder of nothing": ("mask.json", text("mask.json", LADDER + '"questions": 1}]}'), "no rung at r_max"),
    "a ladder without end": ("mask.json", replaced("mask.json", _endless), "no regular file"),
    "results in results": ("results.json", text("bench/results.json", "[" * 5000), "is damaged"),
    "results without end": ("results.json", replaced("bench/results.json", _endless), "regular file"),
    "a size beyond": ("results.json", changed(size_bytes=10**400), "size_bytes"),
    "a name of a book": ("results.json", changed(name="x" * 5000), "measurements.0.name"),
    "a figure beyond": ("results.json", changed(peak_rss_mib=1e300), "peak_rss_mib"),
}


READERS: dict[str, Callable[[Path], Any]] = {
    "recipe.yaml": lambda folder: page.run_settings(folder),
    "run.json": lambda folder: page.run_settings(folder),
    "metrics.jsonl": lambda folder: training.read(folder / "metrics.jsonl"),
    "mask.json": lambda folder: ladder.read(folder / "mask.json"),
    "results.json": lambda folder: results_file.read(folder / "bench" / "results.json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused(case: str, folder: Path) -> None:
    name, change, words = REFUSED[case]
    change(folder)
    began = time.process_time()
    with pytest.raises(UserError, match=words) as error:
        READERS[name](folder)
    assert str(error.value).isprintable() and len(str(error.value)) < 1000
    assert time.process_time() - began < 10


@pytest.mark.parametrize("case", ["aliases", "a size beyond"])
def test_the_command_says_so(case: str, folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, change, words = REFUSED[case]
    change(folder)
    run(["report", folder], capsys, monkeypatch).refused(words)


def test_it_is_drawn_all_the_same(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = [
        measurement(name="nothing", size_bytes=0),
        measurement(name="hardly anything", size_bytes=1, peak_rss_mib=1e-300),
        measurement(name="\x1b[2J\x1b]0;PWNED\x07" + "n" * 3000, scheme="\x1b[31m", runtime="[/]<script>"),
        measurement(name="answers", answers="../../../etc/passwd"),
    ]
    write(folder / "bench" / "results.json", Results(measurements=tuple(odd)))
    phases = [{"step": 0, "phase": n, "objective": "o" * 999} for n in range(999)]
    rows = [*phases, {"step": 1, "eval_accuracy": 1e308}, {"step": 2, "eval_accuracy": 50}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = run(["report", folder], capsys, monkeypatch)
    said.clean()
    assert said.status == 0, said.err
    html = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert "[/]<script>" not in html and "\x1b" not in html and "o" * 61 not in html


def test_of_two_thousand_measurements_some_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few labels and few panels, whatever comes; the table holds all. Here with lower bounds, to be quick."""
    monkeypatch.setattr(tradeoff, "MOST_LABELS", 3)
    monkeypatch.setattr(page, "_MOST_PANELS", 1)
    many = [
        measurement(name=f"m{n} {'x' * 300}", total_ms=1 + n, device=DEVICE.model_copy(update={"name": f"d{n % 2}"}))
        for n in range(16)
    ]
    write(tmp_path / "results.json", Results(measurements=tuple(many)))
    html = report(tmp_path / "results.json", None, tmp_path).html.read_text(encoding="utf-8")
    assert all(f"m{n} xxx" in html for n in range(16))
    assert html.count('class="tradeoff"') < 12
    assert "5 marks have no label here" in html and "Not drawn: a suite's first 1 devices are" in html
    assert max(len(entry.name) for entry in gather.gather([tmp_path / "results.json"]).entries) == gather.LONGEST_NAME
