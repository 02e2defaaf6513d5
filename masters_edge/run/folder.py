"""The run folder: what was asked, with what, and what came out; enough to go on after a kill and to repeat it.

recipe.yaml        the resolved recipe, every default written out
run.json           schema version, recipe file, seed, threads, versions, fingerprints of models and data
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
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masters_edge.common import versions
from masters_edge.common.errors import UserError
from masters_edge.common.files import read_json, sweep, write_json, write_text
from masters_edge.recipe import Recipe, dump, load

SCHEMA_VERSION = 1
LOCK = ".lock"
SKIPPED = "skipped.txt"
ROOT = Path("runs")
_LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "torchao", "onnxruntime")
# Sections that change what is trained; the others may change between `distill` and `export` or `bench`.
_TRAINED_BY = ("student", "teachers", "data", "mask", "responses", "reward", "train", "seed")


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

    def info(self) -> dict[str, Any]:
        """run.json, checked.

        Raises:
            UserError: missing, broken, or of a newer schema.
        """
        path = self.folder / "run.json"
        try:
            info = read_json(path)
        except FileNotFoundError:
            raise UserError(
                f"{self.folder} is no run folder (it has no run.json); masters-edge distill makes one"
            ) from None
        except ValueError as error:
            raise UserError(
                f"{path} is not valid JSON ({error}); restore it, or start again in another run_dir"
            ) from None
        if info.get("schema_version") != SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema version {info.get('schema_version')}, this is masters-edge {versions.own()} with "
                f"version {SCHEMA_VERSION}; use the masters-edge that made the run"
            )
        return info

    def recipe(self) -> Recipe:
        return load(self.folder / "recipe.yaml")


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run folder, so that no second command writes into it; let go of when the process ends, however it ends.

    Raises:
        UserError: somebody else holds it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    held = FileLock(folder / LOCK)
    try:
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


def folder_of(recipe: Recipe, recipe_path: Path) -> Path:
    return Path(recipe.run_dir) if recipe.run_dir else ROOT / recipe_path.stem


def open_run(recipe: Recipe, recipe_path: Path, fingerprints: dict[str, Any], threads: int) -> Run:
    """The run folder of this recipe, made new or found again.

    Raises:
        UserError: the folder holds a run of another recipe, other checkpoints or other data.
    """
    run = Run(folder_of(recipe, recipe_path))
    if (run.folder / "run.json").exists():
        info, before = run.info(), run.recipe()
        changed = [s for s in _TRAINED_BY if getattr(before, s) != getattr(recipe, s)]
        changed += ["quantize.qat"] if before.quantize.qat != recipe.quantize.qat else []
        changed += [name for name, value in fingerprints.items() if info["fingerprints"].get(name) != value]
        if changed:
            raise UserError(
                f"{run.folder} holds a run with another {' and '.join(changed)}; set run_dir to a new folder, "
                f"or remove {run.folder} to start afresh"
            )
        return run
    _require_new(run.folder, dump(recipe))
    run.folder.mkdir(parents=True, exist_ok=True)
    write_text(run.folder / "recipe.yaml", dump(recipe))
    write_json(
        run.folder / "run.json",
        {
            "schema_version": SCHEMA_VERSION,
            "recipe": str(recipe_path.resolve()),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seed": recipe.seed,
            "threads": threads,
            "fingerprints": fingerprints,
            "versions": versions_here(),
            "machine": platform.platform(),
        },
    )
    return run


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
        if path.name != LOCK and not ours:
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
