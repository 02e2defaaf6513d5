"""What is advised about run folders and finished runs."""

import re
import shutil
from pathlib import Path

import pytest

from masters_edge import workflow
from masters_edge.benchmarks.suites import SuiteChoice
from masters_edge.common.files import write_json
from masters_edge.data.questions import Questions
from masters_edge.recipe import load
from masters_edge.run import cast
from masters_edge.run import folder as runs
from tests.advice import ROOT, follows, said

PRINTS = {"student": "s", "teachers": ["t"], "data": "d"}


def opened(recipe: Path, run: Path, *changes: str) -> runs.Run:
    return runs.open_run(load(recipe, [f"run_dir={run}", *changes]), recipe, PRINTS, 1)


@follows(
    "{} holds a run with another {}; set run_dir",
    "{} is not empty and no run folder; set run_dir to a new folder",
)
def test_a_new_folder_or_the_old_one_removed(tiny_recipe: Path, tmp_path: Path) -> None:
    old = opened(tiny_recipe, tmp_path / "old")
    with said("set run_dir to a new folder, or remove"):
        opened(tiny_recipe, tmp_path / "old", "seed=7")
    assert opened(tiny_recipe, tmp_path / "new", "seed=7").info()
    shutil.rmtree(tmp_path / "old")
    assert opened(tiny_recipe, tmp_path / "old", "seed=7").info()
    text = (old.folder / "run.json").read_text()
    (old.folder / "run.json").write_text("{")
    with said("restore it, or start again in another run_dir"):
        old.info()
    assert opened(tiny_recipe, tmp_path / "other", "seed=7").info()
    (old.folder / "run.json").write_text(text)
    assert old.info()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with said("set run_dir to a new folder"):
        opened(tiny_recipe, tmp_path / "mine")
    assert opened(tiny_recipe, tmp_path / "mine too").info()


@follows("{} is in use by another masters-edge command; wait for its end, or set run_dir to a new folder")
def test_wait_or_take_another(tmp_path: Path) -> None:
    with runs.lock(tmp_path / "run"):
        with said("wait for its end, or set run_dir"), runs.lock(tmp_path / "run"):
            pass
        with runs.lock(tmp_path / "other"):
            pass
    with runs.lock(tmp_path / "run"):
        pass


@follows(
    "{} is no run folder (it has no run.json); masters-edge distill makes one",
    "there is no finished run below {}; make one with",
    "{} is not finished; go on with: masters-edge distill <its recipe>",
    "{} has not been measured yet; run: masters-edge bench --run {}",
    "{} has no bundle to measure; make one with: masters-edge export",
)
def test_distill_then_export_then_bench(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command leaves what the next sentence asks for."""
    monkeypatch.chdir(tmp_path)
    with said("make one with: masters-edge distill RECIPE"):
        runs.newest_finished()
    folder = Path("runs/tiny")
    with said("masters-edge distill makes one"):
        runs.Run(folder).info()
    run = opened(tiny_recipe, folder)
    assert run.info()["schema_version"] == runs.SCHEMA_VERSION
    with said("go on with: masters-edge distill"):
        workflow._run_of(folder, None)
    write_json(folder / "finished.json", {"steps": 1, "training_seconds": 1.0})
    assert workflow._run_of(folder, None) == runs.newest_finished() == run
    with said("make one with: masters-edge export"):
        workflow._subjects(run, run.recipe())
    shutil.copytree(tmp_path / "student", run.student)
    write_json(run.bundles / "onnx" / "manifest.json", {})
    assert [subject.name for subject in workflow._subjects(run, run.recipe())][-1] == "onnx"
    with said("run: masters-edge bench --run"):
        workflow._measured(None, folder)
    write_json(folder / "bench" / "results.json", {})
    assert workflow._measured(None, folder)
    write_json(folder / "run.json", {**run.info(), "schema_version": 0})
    with said("restore it, or start again"):
        run.info()


@follows("{}: data.train has no question; give it a source that has some")
def test_a_source_with_questions(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched, said("give it a source that has some"):
        patched.setattr(cast, "read_questions", lambda recipe, path: Questions([], [], []))
        cast.cast_of(load(tiny_recipe), tiny_recipe)
    assert cast.cast_of(load(tiny_recipe), tiny_recipe).questions.train


@follows("the demo needs {}; install with: pip install 'masters-edge[all]'")
def test_all_brings_what_the_demo_needs() -> None:
    found = re.search(r'^all = \["masters-edge\[(.*)\]"\]$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    with said("pip install 'masters-edge[all]'"), pytest.MonkeyPatch.context() as patched:
        patched.setattr("importlib.util.find_spec", lambda name: None)
        workflow.demo()
    assert found is not None and {"distill", "onnx", "bench"} <= set(found[1].split(","))


@follows("--split, --name and the columns belong to --suite; name one, or leave them out")
def test_a_suite_of_its_own_or_the_recipes_test(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = load(tiny_recipe)
    run = opened(tiny_recipe, tmp_path / "run")
    with said("name one, or leave them out"):
        workflow._suite(run, recipe, SuiteChoice(split="test"))
    for choice in (SuiteChoice(source="easy-vqa"), SuiteChoice()):
        assert workflow._suite(run, recipe, choice).questions
