"""The run folder: a command that was killed while it made one doesn't stand in the way of the next, and neither does
where it lies; what can't be used is one sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from masters_edge.common.errors import UserError
from masters_edge.recipe import dump, load
from masters_edge.run import folder as runs

PRINTS = {"student": "s", "teachers": ["t"], "data": "d"}


def test_a_folder_half_made_by_a_killed_command_is_made_whole(tiny_recipe: Path) -> None:
    folder = tiny_recipe.parent / "run"
    recipe = load(tiny_recipe, [f"run_dir={folder}"])
    folder.mkdir()
    (folder / runs.LOCK).touch()
    (folder / "recipe.yaml").write_text(dump(recipe), encoding="utf-8")
    (folder / ".run.json.4194999.part").touch()  # no process has a number so high
    run = runs.open_run(recipe, tiny_recipe, PRINTS, 1)
    assert run.info()["fingerprints"] == PRINTS and run.recipe() == recipe
    assert {path.name for path in folder.iterdir()} == {runs.LOCK, "recipe.yaml", "run.json"}


@pytest.mark.parametrize(("name", "text"), [("recipe.yaml", "student: mine"), ("notes.txt", "")])
def test_a_folder_with_something_of_the_user_s_is_left_alone(tiny_recipe: Path, name: str, text: str) -> None:
    folder = tiny_recipe.parent / "run"
    folder.mkdir()
    (folder / name).write_text(text)
    with pytest.raises(UserError, match="is not empty and no run folder"):
        runs.open_run(load(tiny_recipe, [f"run_dir={folder}"]), tiny_recipe, PRINTS, 1)
    assert (folder / name).read_text() == text and not (folder / "run.json").exists()


@pytest.mark.parametrize("what", ["project", "run", "recipe"])
def test_a_run_that_was_moved_finds_its_recipe(tiny_recipe: Path, what: str) -> None:
    """The whole project, the run folder alone, or the recipe to where the run is not: its old place still counts."""
    old, new = tiny_recipe.parent / "old", tiny_recipe.parent / "new"
    (old / "data").mkdir(parents=True)
    recipe_path = Path(shutil.copy(tiny_recipe, old / "data" / "tiny.yaml"))
    recipe = load(recipe_path, [f"run_dir={old / 'runs/tiny'}"])
    run = runs.open_run(recipe, recipe_path, PRINTS, 1)
    assert run.recipe_file() == recipe_path
    if what == "project":
        shutil.copytree(old, new)  # the old one is still there, and not meant
        assert runs.Run(new / "runs/tiny").recipe_file() == new / "data/tiny.yaml"
        shutil.rmtree(old)
        assert runs.Run(new / "runs/tiny").recipe_file() == new / "data/tiny.yaml"
    elif what == "run":
        (old / "runs/tiny").rename(tiny_recipe.parent / "elsewhere")
        assert runs.Run(tiny_recipe.parent / "elsewhere").recipe_file() == recipe_path
    else:
        moved = recipe_path.rename(tiny_recipe.parent / "moved.yaml")
        assert run.recipe_file() == recipe_path  # nothing better is known
        runs.open_run(recipe, moved, PRINTS, 1)
        assert run.recipe_file() == moved


def test_a_run_from_before_it_knew_the_way_there(tiny_recipe: Path) -> None:
    recipe = load(tiny_recipe, [f"run_dir={tiny_recipe.parent / 'run'}"])
    run = runs.open_run(recipe, tiny_recipe, PRINTS, 1)
    info = run.info()
    del info["recipe_from_here"]
    (run.folder / "run.json").write_text(json.dumps(info))
    assert run.recipe_file() == tiny_recipe


@pytest.mark.parametrize("place", ["tiny.yaml", "tiny.yaml/x", "/proc/x"])
def test_a_run_folder_that_can_t_be_is_one_sentence(tiny_recipe: Path, place: str) -> None:
    with pytest.raises(UserError, match=r"can't be written \("), runs.lock(tiny_recipe.parent / place):
        pass


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), runs.lock(tmp_path / "runs/tiny"):
        assert (tmp_path / "runs/tiny" / runs.LOCK).exists()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["run.json", "recipe.yaml", "finished.json"])
@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"5", b"\xff\xfe", b'{"schema_version": 1}', b"a: [", None]
)
def test_a_damaged_file_of_the_run_is_one_sentence(tiny_recipe: Path, name: str, text: bytes | None) -> None:
    recipe = load(tiny_recipe, [f"run_dir={tiny_recipe.parent / 'run'}"])
    run = runs.open_run(recipe, tiny_recipe, PRINTS, 1)
    (run.folder / name).unlink(missing_ok=True)
    if text is not None:
        (run.folder / name).write_bytes(text)
    read: dict[str, Any] = {
        "run.json": lambda: run.info("recipe", "threads", "fingerprints"),
        "recipe.yaml": run.recipe,
        "finished.json": lambda: run.ended("steps", "training_seconds"),
    }
    with pytest.raises(UserError) as caught:
        read[name]()
    assert str(run.folder) in str(caught.value) and "\n" not in str(caught.value)
