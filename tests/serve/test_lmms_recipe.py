"""lmms-eval's local task: its files fit together, and the comparison sees what differs.

The run itself needs lmms-eval in an environment of its own: recipes/lmms_eval/run.py.
"""

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from PIL import Image

from masters_edge.benchmarks import suites

RECIPE = Path(__file__).parents[2] / "recipes" / "lmms_eval"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"lmms_recipe_{name}", RECIPE / f"{name}.py")
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


class _Task(yaml.SafeLoader):
    """Reads a task's YAML; functions by their name."""


_Task.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def test_rows_are_what_the_task_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, utils = module("run"), module("utils")
    suite = suites.load("easy-vqa").take(7)
    run.write_questions(suite, tmp_path)
    task = yaml.load((RECIPE / "easy_vqa_local.yaml").read_text(), _Task)
    assert task["task"] == run.TASK
    monkeypatch.chdir(tmp_path)
    rows = run.read_rows(Path(task["dataset_kwargs"]["data_files"][task["test_split"]]))
    assert [row["id"] for row in rows] == [question.id for question in suite.questions]
    for row, question in zip(rows, suite.questions):
        (picture,) = getattr(utils, task["doc_to_visual"].removeprefix("utils."))(row)
        with Image.open(question.image) as original:
            assert picture.tobytes() == original.convert("RGB").tobytes()
        assert getattr(utils, task["doc_to_text"].removeprefix("utils."))(row) == question.text
        assert row[task["doc_to_target"]] == question.answer and not os.path.isabs(row["image"])


def test_samples_are_matched_by_row_and_differences_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = module("run")
    by_bench = {"a": ("red", 1.0), "b": ("no", 0.0)}
    assert run.compare({"b": ("no", 0.0), "a": ("red", 1.0)}, by_bench) == 0
    assert "50.00% (1 of 2)" in capsys.readouterr().out
    assert run.compare({"a": ("red", 1.0), "b": ("yes", 1.0)}, by_bench) == 1
    assert "b: lmms-eval ('yes', 1.0), bench ('no', 0.0)" in capsys.readouterr().out
    assert run.compare({"a": ("red", 1.0)}, by_bench) == 1
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": 1}) + "\n")
    assert run.read_rows(tmp_path / "rows.jsonl") == [{"id": 1}]
