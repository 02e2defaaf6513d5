"""Whole tiny runs for the tests of training: in this process, or started by a launcher; and how two of them compare."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "recipes/accelerate"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def launch(config: Path | str, *arguments: str, cwd: Path, module: str = "masters_edge", **environment: str):
    """Two processes through accelerate's launcher with one of its configurations."""
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", str(config)]
    command += ["--num_processes", "2", "--main_process_port", "0", "-m", module]
    return _run([*command, *arguments], cwd, environment)


def torchrun(*arguments: str, cwd: Path):
    """Two processes through torch's own launcher."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    return _run([*command, "-m", "masters_edge", *arguments], cwd, {})


def _run(command: list[str], cwd: Path, environment: dict[str, str]):
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False, timeout=300)


def assert_same_run(one: Path, other: Path, start: Path) -> None:
    """Metrics and students agree up to float noise; AdamW makes a whole step of noise where a gradient is 0."""
    ours, theirs = metrics(one), metrics(other)
    assert len(ours) == len(theirs)
    for mine, its in zip(ours, theirs):
        assert mine.keys() == its.keys()
        for name in mine.keys() - {"seconds"}:
            same = mine[name] == its[name] or abs(mine[name] - its[name]) < 2e-5 * max(1, abs(mine[name]))
            assert same, (name, mine, its)
    a, b, before = weights(one / "student"), weights(other / "student"), weights(start)
    assert a.keys() == b.keys()
    moved = sum((a[name] - before[name]).square().sum() for name in a).sqrt()
    apart = sum((a[name] - b[name]).square().sum() for name in a).sqrt()
    assert moved > 0.1 and apart < 2e-3 * moved, (moved, apart)
