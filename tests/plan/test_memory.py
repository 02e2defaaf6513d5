"""Predicted memory of a training step against the peak of the real Trainer in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from masters_edge.plan import memory, prompts
from masters_edge.plan.memory import Machine, Models
from masters_edge.plan.shapes import shape
from masters_edge.recipe import Recipe
from masters_edge.training.setup import questions_per_device
from tests.plan import real_step

HERE = Machine(processes=1, sharding="none", gpu=False, gpu_bytes=1 << 34)


def recipe(**train: Any) -> dict[str, Any]:
    steps = {"phases": [{"objective": "joint", "steps": 2}], "questions_per_step": 2, "trackers": [], "threads": 1}
    return {
        "student": "student",
        "teachers": ["teacher"],
        "data": {"train": {"source": "easy-vqa"}, "held_out": 0},
        "mask": {"step": 0.2},
        "responses": {"max_new_tokens": 16},
        "train": steps | train,
    }


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "PICTURE", real_step.PICTURE)


def predicted_and_measured(folder: Path, family: str, values: dict[str, Any]) -> tuple[memory.Usage, int]:
    """The plan's usage, and the peak in bytes of a child process."""
    sizes = {"student": (256, 8), "teacher": (384, 10), "warm-student": (128, 1), "warm-teacher": (128, 1)}
    for name, (hidden, layers) in sizes.items():
        (folder / f"{name}.json").write_text(json.dumps(real_step.config(family, hidden, layers, 8192)))
    paths = {name: str(folder / f"{name}.json") for name in sizes}
    checked = Recipe.model_validate(values)
    shapes = [shape(paths["student"]), shape(paths["teacher"])]
    built = [prompts.prompt(s, "nowhere", [], None) for s in shapes]
    phase = checked.train.phases[0]
    rows, passes = questions_per_device(checked, phase, 1)
    usage = memory.training(Models(shapes[0], shapes[1:], built[0], built[1:]), checked, phase, HERE, rows, passes)
    spec = {
        "student": paths["student"],
        "teacher": paths["teacher"],
        "recipe": values,
        "warm_up": {"student": paths["warm-student"], "teacher": paths["warm-teacher"]},
    }
    # Large pieces of memory go back to the system at once, so that resident memory is what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.plan.real_step", json.dumps(spec)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
    print(f"{family}: predicted {usage.total / 2**20:.0f} MiB, measured {measured / 2**20:.0f} MiB: {usage.parts}")
    return usage, measured


linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")


@linux
@pytest.mark.wide
@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl"])
def test_peak_of_a_training_step(tmp_path: Path, family: str) -> None:
    usage, measured = predicted_and_measured(tmp_path, family, recipe())
    assert usage.moment == "loss"
    assert usage.total == pytest.approx(measured, rel=0.2)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl"])
@pytest.mark.parametrize(
    "train",
    [
        {"gradient_checkpointing": True},
        {"lora": {}},
        {"lora": {}, "gradient_checkpointing": True},
        {"teacher_logits": "cached"},
        {"questions_per_device": 1},
        {"questions_per_step": 6},
        {"precision": "bf16"},
        {"precision": "bf16", "gradient_checkpointing": True},
        {"phases": [{"objective": "distill", "steps": 2}], "freeze": ["model.vi*"]},
    ],
    ids=lambda train: "-".join(train),
)
def test_peak_of_every_way_to_train(tmp_path: Path, family: str, train: dict[str, Any]) -> None:
    usage, measured = predicted_and_measured(tmp_path, family, recipe(**train))
    assert usage.total == pytest.approx(measured, rel=0.2)
