"""The names that masters_edge offers: what their docstrings show, run in order in one folder on tiny models."""

import doctest
import inspect
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import create_autospec

import pytest

import masters_edge
from masters_edge import distill, workflow
from masters_edge.benchmarks import results
from masters_edge.common import display
from masters_edge.common.errors import UserError
from masters_edge.recipe import load
from masters_edge.run.folder import Run
from tests import tiny

# What a step needs comes before it.
IN_ORDER = ("Recipe", "distill_recipe", "export_bundles", "measure_bundles", "Student")


@pytest.fixture
def said(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is said meanwhile, which no docstring shows; the recipe is my.yaml, in the current folder."""
    short = "export: {parity_samples: 4}\nbench: {latency_questions: 4}\n"
    tiny_recipe.with_name("my.yaml").write_text(tiny_recipe.read_text() + short)
    tiny.picture().save(tiny_recipe.with_name("photo.jpg"))
    monkeypatch.chdir(tiny_recipe.parent)
    monkeypatch.setattr(display.console, "_file", io.StringIO())
    yield display.console.file  # type: ignore[misc]


@pytest.mark.wide
def test_every_example_does_what_it_shows(said: io.StringIO) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for name in IN_ORDER:
        shown = inspect.getdoc(getattr(masters_edge, name)) or ""
        example = doctest.DocTestParser().get_doctest(shown, {}, name, None, None)
        assert example.examples, name
        told = io.StringIO()
        assert runner.run(example, out=told.write).failed == 0, told.getvalue()
    assert "onnx-int4" in said.getvalue()  # it says what the commands say


def test_a_run_is_taken_for_all_that_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export, bench = create_autospec(workflow.export), create_autospec(workflow.bench)
    monkeypatch.setattr(workflow, "export", export)
    monkeypatch.setattr(workflow, "bench", bench)
    monkeypatch.setattr(results, "read", lambda path: path)
    (tmp_path / "run.json").write_text("{}")
    run = Run(tmp_path)
    for one in (run, tmp_path, str(tmp_path)):
        masters_edge.export_bundles(one)
        assert (export.call_args.kwargs["run"], export.call_args.kwargs["student"]) == (tmp_path, None)
        masters_edge.measure_bundles(one)
        assert (bench.call_args.kwargs["run"], bench.call_args.kwargs["bundles"]) == (tmp_path, [])
    masters_edge.export_bundles(run.student)
    assert (export.call_args.kwargs["run"], export.call_args.kwargs["student"]) == (None, run.student)
    masters_edge.measure_bundles([run.student], questions=3)
    assert (bench.call_args.kwargs["run"], bench.call_args.kwargs["bundles"]) == (None, [run.student])
    assert bench.call_args.kwargs["settings"].questions == 3
    with pytest.raises(UserError, match="no bundle was given"):
        masters_edge.measure_bundles([])


def test_a_recipe_made_in_python_leaves_its_file(said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "distill", lambda path, overrides: path)
    recipe = load(Path("my.yaml"))
    with pytest.raises(UserError, match="needs a run_dir"):
        masters_edge.distill_recipe(recipe)
    recipe = recipe.model_copy(update={"run_dir": "runs/own"})
    assert masters_edge.distill_recipe(recipe) == Path("own.yaml")  # type: ignore[comparison-overlap]
    assert load(Path("own.yaml")) == recipe
    masters_edge.distill_recipe(recipe)
    with pytest.raises(UserError, match="own.yaml is another recipe"):
        masters_edge.distill_recipe(recipe.model_copy(update={"seed": 1}))


def test_the_package_says_what_is_public_and_loads_none_of_it() -> None:
    code = (
        "import sys; before = set(sys.modules); import masters_edge;"
        "assert not set(masters_edge.__all__) - set(dir(masters_edge));"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["masters_edge"]
    assert set(masters_edge.__all__) == set(IN_ORDER) == set(masters_edge._HOME)
    assert masters_edge.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        masters_edge.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_no_name_hides_a_package() -> None:
    folder = Path(masters_edge.__file__).parent
    rooms = {path.stem for path in folder.iterdir()} | {"export", "benchmarks", "recipes"}
    assert not rooms & set(masters_edge.__all__)
