"""Recipes that come with masters-edge: listed, copied anywhere, and run as the demo."""

import re
import shutil
import sys
from pathlib import Path
from unittest.mock import Mock, create_autospec

import pytest
from typer.testing import CliRunner

from masters_edge import cli, distill, workflow
from masters_edge.benchmarks import Settings
from masters_edge.benchmarks.suites import SuiteChoice
from masters_edge.common import extras
from masters_edge.common.errors import UserError
from masters_edge.recipe import checkpoint, load, shipped
from masters_edge.run.folder import Run

ROOT = Path(__file__).parents[2]
NAMES = [path.stem for path in sorted((ROOT / "recipes").glob("*.yaml"))]


def test_all_are_listed_and_say_what_they_are() -> None:
    listed = CliRunner().invoke(cli.app, ["recipes"]).output.splitlines()
    settings = ["accelerate/ddp-cpu", "accelerate/fsdp2", "accelerate/zero3"]
    assert [line.split()[0] for line in listed[:-1]] == [*NAMES, *settings]
    assert all(len(line.split()) > 4 for line in listed)
    assert "masters-edge recipes NAME > my.yaml" in listed[-1]


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_the_same_recipe_wherever_it_lies(name: str, tmp_path: Path) -> None:
    own = tmp_path / "own" / "my.yaml"
    own.parent.mkdir()
    own.write_text(CliRunner().invoke(cli.app, ["recipes", f"{name}.yaml"]).output)
    path = ROOT / "recipes" / f"{name}.yaml"
    theirs, mine = load(path), load(own)
    for one, other in zip((theirs.student, *theirs.teachers), (mine.student, *mine.teachers), strict=True):
        assert checkpoint(one, path) == checkpoint(other, own)
    models = {"student", "teachers"}
    assert mine.model_dump(exclude=models) == theirs.model_dump(exclude=models)
    assert "../docs" not in own.read_text() and "$schema=./recipe.schema.json" in own.read_text()


def test_a_copy_names_checkpoints_in_a_folder_with_an_awkward_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site: a, b # [c]"
    shutil.copytree(ROOT / "recipes/demo", folder / "demo")
    shutil.copyfile(ROOT / "recipes/demo.yaml", folder / "demo.yaml")
    monkeypatch.setattr(shipped.resources, "files", lambda package: folder)
    (tmp_path / "my.yaml").write_text(shipped.copied("demo"))
    recipe = load(tmp_path / "my.yaml")
    assert (recipe.student, recipe.teachers) == (str(folder / "demo/student"), [str(folder / "demo/teacher")])


def test_settings_for_several_processes_are_copied_as_they_are() -> None:
    assert shipped.copied("accelerate/fsdp2") == (ROOT / "recipes/accelerate/fsdp2.yaml").read_text()


def test_what_does_not_come_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no recipe 'mobil' comes with masters-edge; did you mean mobile?"):
        shipped.copied("mobil")
    with pytest.raises(UserError, match="there are: demo, mobile, "):
        shipped.copied("../secret")
    monkeypatch.setitem(sys.modules, "masters_edge.recipes", None)  # as on a board
    with pytest.raises(UserError, match="comes without recipes, as a board's does"):
        shipped.shipped()


def test_the_demo_is_its_recipe_from_training_to_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of `make demo`, and on its own run whatever else was trained here."""
    run, done = Run(Path("runs/demo")), Mock()
    for owner, name in ((distill, "distill"), (workflow, "export"), (workflow, "bench")):
        stand_in = create_autospec(getattr(owner, name), return_value=run)  # refuses arguments that the real one hasn't
        monkeypatch.setattr(owner, name, stand_in)
        done.attach_mock(stand_in, name)
    assert workflow.demo() == run
    makefile = (ROOT / "Makefile").read_text().partition("\ndemo:")[2].partition("\n\n")[0]
    steps = re.findall(r"masters-edge (\w+)", makefile)
    assert [name for name, _, _ in done.mock_calls] == steps == ["distill", "export", "bench"]
    trained, exported, measured = done.mock_calls
    assert trained.args[0].samefile(ROOT / "recipes/demo.yaml")
    nothing = dict.fromkeys(("student", "targets", "schemes", "out"))  # all of it is the recipe's
    assert exported.kwargs == {**nothing, "run": run.folder}
    asked = {"suite": SuiteChoice(), "settings": Settings()}
    assert measured.kwargs == {"bundles": None, "run": run.folder, "devices": ["local"], **asked}


def test_the_demo_says_what_it_will_need_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "distill", lambda path: pytest.fail("it was started"))
    monkeypatch.setitem(extras.EXTRAS, "onnx", ("", ("onnx", "no_such_module")))
    with pytest.raises(UserError, match=r"the demo needs no_such_module; install .* 'masters-edge\[all\]'"):
        workflow.demo()
