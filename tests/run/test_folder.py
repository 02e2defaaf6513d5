"""The run folder: a command that was killed while it made one doesn't stand in the way of the next."""

from pathlib import Path

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
