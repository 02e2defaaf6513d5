"""The scripts behind docs/results/training.md, at sizes that take seconds: they run, and the savings are there."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ECONOMY = Path(__file__).parents[1] / "recipes/economy"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ECONOMY))
    return importlib.import_module


def run(script: str, out: Path, *arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, str(ECONOMY / script), *arguments, "--threads", "1", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.mark.wide
def test_the_grouped_forward_needs_a_quarter_of_the_work_and_gives_the_same_gradient(scripts) -> None:
    grouped = scripts("grouped")
    step = grouped.Step(1, 512, 32, 8, attention="eager", shape=(128, 2))
    separate, together = grouped.flops(step.separate), grouped.flops(step.grouped)
    assert separate >= 4 * together
    losses, gradients = [], []
    for way in (step.separate, step.grouped):
        losses.append(float(way()))
        gradients.append(step.gradient())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 1e-5


@pytest.mark.wide
def test_chunks_need_an_eighth_of_the_memory_at_most(tmp_path: Path) -> None:
    sizes = ("--vocabulary", "30000", "--tokens", "1024", "--plain-tokens", "1024", "--entries", str(1 << 20))
    figures = run("chunked.py", tmp_path / "chunked.json", *sizes)
    assert figures["memory_share"] < 1 / 8
    assert figures["loss_difference"] < 1e-5 and figures["gradient_difference"] < 1e-5


@pytest.mark.wide
def test_trl_computes_the_same_loss_and_gradient_in_more_time(tmp_path: Path) -> None:
    sizes = ("--questions", "1", "--prompt", "128", "--response", "8", "--repeats", "1")
    figures = run("trl_step.py", tmp_path / "trl.json", *sizes)
    assert figures["loss"]["TRL"] == pytest.approx(figures["loss"]["masters-edge"], rel=1e-4)
    assert figures["gradient_relative_difference"] < 1e-4
