"""A run that was stopped, and then a hand or a bad disk in its folder: it says in one sentence what is wrong, or it
goes on and ends with the same student.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from masters_edge import cli
from masters_edge.common.errors import UserError
from masters_edge.distill import distill
from masters_edge.objective import chunked
from tests.test_distill import weights

OVERRIDES = [
    "train.phases=[{objective: distill, steps: 5}, {objective: joint, steps: 5}]",
    "train.trackers=[none]",
    "mask={r_max: auto, score: activation, calibration_questions: 2}",
    "responses.split=auto",
    "reward.policy=auto",
]
# Of each kind of file in a run folder, one; `{step}` is the newest checkpoint's.
FILES = [
    "run.json",
    "recipe.yaml",
    "metrics.jsonl",
    "mask.json",
    "activation-norms/teacher-0.safetensors",
    "activation-norms/complete",
    "phase-0-distill/split.json",
    "phase-0-distill/responses.json",
    "phase-0-distill/responses/stage-00/part-00000.parquet",
    "phase-0-distill/student/model.safetensors",
    "phase-0-distill/student/config.json",
    "phase-0-distill/student/tokenizer.json",
    "phase-0-distill/student/complete",
    "phase-1-joint/split.json",
    "phase-1-joint/policy.json",
    "phase-1-joint/responses.json",
    "phase-1-joint/labels/part-00000.parquet",
    "phase-1-joint/responses/stage-00/part-00000.parquet",
    "phase-1-joint/responses/stage-04/part-00000.parquet",
    *(
        f"phase-1-joint/checkpoints/checkpoint-4/{name}"
        for name in (
            "model.safetensors",
            "optimizer.pt",
            "scheduler.pt",
            "rng_state.pth",
            "trainer_state.json",
            "training_args.bin",
            "config.json",
            "complete",
        )
    ),
    "phase-1-joint/checkpoints/checkpoint-4",
    "phase-1-joint/checkpoints",
    "phase-1-joint",
]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def folder(path: Path) -> None:
    remove(path)
    path.mkdir()


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def file(path: Path) -> None:
    remove(path)
    path.write_text("{}")


EDITS: dict[str, Callable[[Path], Any]] = {
    "removed": remove,
    "emptied": lambda path: path.write_bytes(b""),
    "cut": cut,
    "flipped": flip,
    "text": lambda path: path.write_text("mine"),
    "list": lambda path: path.write_text("[1, 2]"),
    "object": lambda path: path.write_text('{"schema_version": 1}'),
    "folder": folder,
    "file": file,
}
CASES = [
    (name, edit)
    for name in FILES
    for edit in EDITS
    if (edit in ("removed", "file")) or ("." in name.rpartition("/")[2] or name.endswith("complete"))
]


@pytest.fixture(scope="module")
def stopped(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recipe, a run `whole` and a run `stopped` in its second phase behind a checkpoint."""
    from tests.conftest import TINY_RECIPE

    home = tmp_path_factory.mktemp("edits")
    for name in ("student", "teacher"):
        (home / name).symlink_to(models / name, target_is_directory=True)
    (home / "tiny.yaml").write_text(TINY_RECIPE)
    distill(home / "tiny.yaml", [*OVERRIDES, f"run_dir={home / 'whole'}"])
    with pytest.MonkeyPatch.context() as patched:
        real, calls = chunked.loss, []

        def loss(*options: Any, **named: Any) -> Any:
            calls.append(1)
            if len(calls) == 10:
                raise KeyboardInterrupt
            return real(*options, **named)

        patched.setattr(chunked, "loss", loss)
        with pytest.raises(KeyboardInterrupt):
            distill(home / "tiny.yaml", [*OVERRIDES, f"run_dir={home / 'stopped'}"])
    assert (home / "stopped/phase-1-joint/checkpoints/checkpoint-4/complete").exists()
    return home


@pytest.mark.slow
@pytest.mark.parametrize(("name", "edit"), CASES)
def test_it_goes_on_or_says_why_not(stopped: Path, tmp_path: Path, name: str, edit: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped / "stopped", run)
    EDITS[edit](run / name)
    try:
        distill(stopped / "tiny.yaml", [*OVERRIDES, f"run_dir={run}"])
    except UserError as error:
        assert "\n" not in str(error) and str(run) in str(error)
        return
    except OSError as error:  # the command line makes a sentence of it
        assert error.errno in cli.REFUSED and str(run) in str(error.filename)
        return
    assert weights(run) == weights(stopped / "whole")
