"""The run folder: what was asked, with what, and what came out; enough to go on after a kill and to repeat it.

recipe.yaml        the resolved recipe, every default written out
run.json           schema version, recipe file (also as seen from here), seed, threads, versions, fingerprints of models
                   and data
mask.json          with `mask.r_max: auto`, how much masking each teacher bears, and what was chosen
activation-norms/  with `mask.score: activation`, the norms that score each teacher's weights (safetensors)
skipped.txt        with `on_error: skip`, the questions without a usable image, a line each
.lock              held by the command that writes here
metrics.jsonl      one line per measurement
phase-0-joint/     labels/ and responses/ (Parquet shards), checkpoints/
student/           the finished student, as transformers saves it
finished.json      written last: steps and seconds; a run without it goes on where it stopped
bundles/ bench/ report/   what `export`, `bench` and `report` add
"""

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masters_edge.common import versions
from masters_edge.common.display import say
from masters_edge.common.errors import UserError
from masters_edge.common.files import is_left_over, read_record, sweep, write_json, write_text, writing
from masters_edge.recipe import Recipe, dump, load
from masters_edge.run import changes

SCHEMA_VERSION = 1
_KINDS: dict[str, type | tuple[type, ...]] = {
    "recipe": str,
    "threads": int,
    "fingerprints": dict,
    "steps": int,
    "training_seconds": (int, float),
    "ended": str,
}
LOCK = ".lock"
SKIPPED = "skipped.txt"
ROOT = Path("runs")
_LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "torchao", "onnxruntime")
_RESTORE = "restore it, or start again in another run_dir"


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder."""

    folder: Path

    @property
    def student(self) -> Path:
        return self.folder / "student"

    @property
    def bundles(self) -> Path:
        return self.folder / "bundles"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def finished(self) -> bool:
        return (self.folder / "finished.json").exists()

    def info(self, *needed: str) -> dict[str, Any]:
        """run.json, checked, the keys that are needed among it.

        Raises:
            UserError: missing, broken, or of a newer schema.
        """
        try:
            return read_record(
                self.folder / "run.json", SCHEMA_VERSION, _RESTORE, {name: _KINDS[name] for name in needed}
            )
        except FileNotFoundError:
            raise UserError(
                f"{self.folder} is no run folder (it has no run.json); masters-edge distill makes one"
            ) from None

    def ended(self, *needed: str) -> dict[str, Any]:
        """finished.json, checked, the keys that are needed among it.

        Raises:
            UserError: missing or broken.
        """
        remedy = "delete it, and masters-edge distill writes it again"
        try:
            return read_record(self.folder / "finished.json", None, remedy, {name: _KINDS[name] for name in needed})
        except FileNotFoundError:
            raise UserError(f"{self.folder} is not finished; masters-edge distill goes on with it") from None

    def recipe(self) -> Recipe:
        return load(self.folder / "recipe.yaml")

    def recipe_file(self) -> Path:
        """The recipe's file, which its relative paths start from: where the run was moved with it, where it was moved
        without it, or where it was."""
        info = self.info("recipe")
        was = Path(info["recipe"])
        places = [self.folder.resolve() / info["recipe_from_here"]] if "recipe_from_here" in info else []
        return next((path.resolve() for path in (*places, was) if path.exists()), was)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run folder, so that no second command writes into it; let go of when the process ends, however it ends.

    Raises:
        UserError: somebody else holds it.
    """
    from filelock import FileLock, Timeout

    made = [path for path in (folder, *folder.parents) if not path.exists()]
    held = FileLock(folder / LOCK)
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            held.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{folder} is in use by another masters-edge command; wait for its end, or set run_dir to a new folder"
        ) from None
    try:
        yield
    finally:
        held.release()
        if not (folder / "run.json").exists():
            (folder / LOCK).unlink(missing_ok=True)  # refused: leave the folder as it was
            with contextlib.suppress(OSError):
                for path in made:
                    path.rmdir()


def folder_of(recipe: Recipe, recipe_path: Path) -> Path:
    return Path(recipe.run_dir) if recipe.run_dir else ROOT / recipe_path.stem


def open_run(
    recipe: Recipe, recipe_path: Path, fingerprints: dict[str, Any], threads: int, *, helping: bool = False
) -> Run:
    """The run folder of this recipe, made new or found again; what may change since then is written down.

    Args:
        threads: to compute with; a run that is found again keeps its own, but for a number that the recipe names.
        helping: another command has begun the run and holds it, so nothing is written.

    Raises:
        UserError: the folder holds a run of another recipe, other checkpoints or other data.
    """
    run = Run(folder_of(recipe, recipe_path))
    if (run.folder / "run.json").exists():
        _go_on(run, recipe, recipe_path, fingerprints, helping)
        return run
    _require_new(run.folder, dump(recipe))
    write_text(run.folder / "recipe.yaml", dump(recipe))
    write_json(
        run.folder / "run.json",
        {
            "schema_version": SCHEMA_VERSION,
            **_place(run.folder, recipe_path),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seed": recipe.seed,
            "threads": threads,
            "fingerprints": fingerprints,
            "versions": versions_here(),
            "machine": platform.platform(),
        },
    )
    return run


def _go_on(run: Run, recipe: Recipe, recipe_path: Path, fingerprints: dict[str, Any], helping: bool) -> None:
    """Hold the recipe against the one that the run began with, and sweep up behind a killed call."""
    info, before = run.info("recipe", "threads", "fingerprints"), run.recipe()
    found = changes.between(before, recipe, info["fingerprints"], fingerprints)
    if found.refused:
        raise UserError(
            f"{run.folder} holds a run with another {' and '.join(found.refused)}; set run_dir to a new folder, "
            f"or remove {run.folder} to start afresh"
        )
    if helping or run.finished:
        return
    for folder in (run.folder, run.folder / "activation-norms", *run.folder.glob("phase-*")):
        sweep(folder)
    threads = info["threads"] if recipe.train.threads == "auto" else recipe.train.threads
    rounding = [key for key in found.rounding if key != "train.threads" or threads != info["threads"]]
    if rounding:
        say(
            f"{' and '.join(rounding)} changed since the run began: the student is the same but for rounding, no "
            "longer bit for bit"
        )
    if dump(before) != dump(recipe):
        write_text(run.folder / "recipe.yaml", dump(recipe))
    now = info | _place(run.folder, recipe_path) | {"threads": threads}
    if now != info:
        write_json(run.folder / "run.json", now)


def _place(folder: Path, recipe: Path) -> dict[str, str]:
    """Where the recipe's file is, and the way there from the run folder: projects are moved, and copied to other
    machines."""
    file = recipe.resolve()
    place = {"recipe": str(file)}
    with contextlib.suppress(ValueError):  # on another of Windows' drives
        place["recipe_from_here"] = Path(os.path.relpath(file, folder.resolve())).as_posix()
    return place


def versions_here() -> dict[str, str]:
    """Python's and the main libraries' versions, as far as they are installed."""
    found = {"masters-edge": versions.own(), "python": platform.python_version()}
    return found | versions.installed(*_LIBRARIES)


def _require_new(folder: Path, recipe: str) -> None:
    """Refuse a folder with something in it, but what a command left that was killed while it made this very run."""
    if not folder.exists():
        return
    sweep(folder)
    for path in folder.iterdir():
        ours = path.name == "recipe.yaml" and path.read_text(encoding="utf-8") == recipe
        if path.name != LOCK and not ours and not is_left_over(path):
            raise UserError(f"{folder} is not empty and no run folder; set run_dir to a new folder")


def newest_finished(root: Path = ROOT) -> Run:
    """The finished run whose training ended last.

    Raises:
        UserError: there is none; says how to make one.
    """
    ends = {path.parent: path.stat().st_mtime for path in root.glob("*/finished.json")}
    if not ends:
        raise UserError(
            f"there is no finished run below {root.resolve()}; make one with: masters-edge distill RECIPE, or with "
            "masters-edge demo (or name a student with --student)"
        )
    return Run(max(ends, key=ends.__getitem__))
