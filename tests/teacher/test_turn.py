"""Several commands fill one run folder: the responses are those of one alone, whoever of them dies."""

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from masters_edge.common.errors import UserError
from masters_edge.common.files import write_json
from masters_edge.distill import distill
from masters_edge.recipe.schema import Mask
from masters_edge.responses import store
from masters_edge.responses.generate import Generator
from masters_edge.run import folder as runs
from masters_edge.teacher import ladder, turn
from tests.conftest import TINY_RECIPE

# masters-edge that says in the file `made` which shards it wrote, and starts when the file `go` is there. It goes on
# when as many processes as `go` says have written one, so that none is through before another has begun.
TOLD = """
import os, sys, time
from masters_edge import distill
from masters_edge.responses import generate, store
write = store.write
def told(path, *rest):
    write(path, *rest)
    with open("made", "a") as log:
        log.write(f"{os.getpid()} {path}\\n")
    while len({line.split()[0] for line in open("made")}) < int(open("go").read()):
        time.sleep(0.005)
store.write = told
open(f"ready-{os.getpid()}", "w").close()
while not os.path.exists("go"):
    time.sleep(0.005)
from masters_edge.cli import main
main()
"""
SMALL_SHARDS = "responses.questions_per_shard=2"  # 34 of them


def start(home: Path, *joining: tuple[str, ...]) -> list[subprocess.Popen]:
    """A `generate` for each tuple of arguments, all of them ready to go."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    command = [sys.executable, "-c", TOLD, "generate", "tiny.yaml", SMALL_SHARDS]
    started = [subprocess.Popen([*command, *more], cwd=home, env=environment, **pipes) for more in joining]
    for process in started:
        while not (home / f"ready-{process.pid}").exists():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.005)
    return started


def ends_well(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def made(home: Path) -> Counter:
    """How many shards each process wrote, each shard once."""
    lines = [line.split() for line in (home / "made").read_text().splitlines()] if (home / "made").exists() else []
    assert len({path for _, path in lines}) == len(lines), lines
    return Counter(int(process) for process, _ in lines)


def assert_same_responses(one: Path, other: Path, exact: bool) -> None:
    """All columns; sums in float32 may end otherwise where the batch is another."""
    names = sorted(path.relative_to(one) for path in one.rglob("phase-0-joint/*/**/*.parquet"))
    assert names == sorted(path.relative_to(other) for path in other.rglob("phase-0-joint/*/**/*.parquet")) and names
    for name in names:
        for mine, its in zip(store.read(one / name), store.read(other / name), strict=True):
            assert mine.keys() == its.keys()
            for column, value in mine.items():
                if column in ("log_probs", "jsd") and not exact:
                    np.testing.assert_allclose(value, its[column], atol=1e-4)
                else:
                    np.testing.assert_array_equal(value, its[column], str(column))
    assert not [path for path in other.rglob(".*") if path.name != runs.LOCK]  # neither locks nor halves


@pytest.fixture(scope="module")
def alone(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one command that nobody disturbs."""
    home = tmp_path_factory.mktemp("alone")
    for name in ("student", "teacher"):
        (home / name).symlink_to(models / name, target_is_directory=True)
    (home / "tiny.yaml").write_text(TINY_RECIPE)
    return distill(home / "tiny.yaml", [SMALL_SHARDS, f"run_dir={home / 'run'}"], only_generate=True).folder


def begin(recipe: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    """A run that has no more than its run.json."""
    monkeypatch.chdir(recipe.parent)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Generator, "labels", Mock(side_effect=KeyboardInterrupt))
        distill(recipe, [SMALL_SHARDS, *overrides], only_generate=True)


@pytest.mark.wide
def test_two_that_join_and_one_alone_make_the_same_responses(alone: Path, tiny_recipe: Path, monkeypatch) -> None:
    home, wanted = tiny_recipe.parent, ("run_dir=shared", "responses.batch_size=5")
    begin(tiny_recipe, monkeypatch, *wanted)
    two = start(home, (*wanted, "--join"), (*wanted, "--join"))
    (home / "go").write_text("2")
    for process in two:
        assert "helping with shared" in ends_well(process)
    assert set(made(home)) == {process.pid for process in two}
    assert_same_responses(alone, home / "shared", exact=False)


@pytest.mark.slow
def test_whoever_is_killed_the_last_one_ends_it(alone: Path, tiny_recipe: Path, monkeypatch) -> None:
    """Four, one of them without --join; three are killed while they make shards."""
    home, wanted, seed = tiny_recipe.parent, "run_dir=shared", time.time_ns()
    begin(tiny_recipe, monkeypatch, wanted)
    rng = random.Random(seed)
    running = start(home, (wanted,), *[(wanted, "--join")] * 3)
    rng.shuffle(running)
    (home / "go").write_text("1")
    while len(running) > 1:
        victim, before = running.pop(), made(home).total()
        while made(home).total() < before + rng.randint(1, 5):
            assert victim.poll() is None, f"seed {seed}: {victim.communicate()[0]}"
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        victim.kill()
        victim.communicate()
    ends_well(running[0])
    assert made(home).total() > 10, f"seed {seed}"
    assert_same_responses(alone, home / "shared", exact=True)


@pytest.mark.wide
def test_a_run_that_nobody_began_or_that_does_not_fit_is_refused(tiny_recipe: Path, monkeypatch) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    with pytest.raises(UserError, match=r"runs/tiny has no run.json; start the first command without --join"):
        distill(tiny_recipe, only_generate=True, join=True)
    assert not Path("runs").exists()
    few = ["train.phases.0.steps=5", "data.limit=8", "data.labels=all"]
    distill(tiny_recipe, few, only_generate=True)
    with runs.lock(Path("runs/tiny")):  # as `distill` would hold it, training by now
        with pytest.raises(UserError, match="holds a run with another seed"):
            distill(tiny_recipe, [*few, "seed=3"], only_generate=True, join=True)
        distill(tiny_recipe, few, only_generate=True, join=True)


def masks_json(folder: Path, teachers: int) -> None:
    write_json(folder / ladder.FILE, {"teachers": [{}] * teachers})


def test_masks_are_measured_by_who_holds_the_run(tmp_path: Path) -> None:
    auto = Mask(r_max="auto")
    (tmp_path / "run.json").touch()
    with runs.lock(tmp_path), turn.masks_turn(tmp_path, Mask(r_max=0.2), 2):
        pass  # nothing to measure, nothing to wait for
    with turn.masks_turn(tmp_path, auto, 2), pytest.raises(UserError, match="is in use"), runs.lock(tmp_path):
        pass  # nobody else is there: this command measures
    with runs.lock(tmp_path):
        masks_json(tmp_path, 1)
        later = threading.Timer(0.7, masks_json, (tmp_path, 2))
        later.start()
        began = time.monotonic()
        with turn.masks_turn(tmp_path, auto, 2):  # the holder measures, and this one waits
            assert time.monotonic() - began > 0.6
    with runs.lock(tmp_path):
        pass
