"""Work sharing between real processes: killed in the middle of a shard, nothing is lost and nothing made twice."""

import functools
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from masters_edge.common.errors import UserError
from masters_edge.common.files import whole_file
from masters_edge.responses import shards, store

WORKER = """
import sys
from pathlib import Path
from masters_edge.responses import shards
from tests.responses.test_shards import NAMES, make
folder, stuck, start = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
heard = []
paths = shards.fill(folder, NAMES, lambda n, p: make(n, p, stuck), heard.append, range(len(NAMES)), start)
assert all(path.exists() for path in paths)
assert sorted(heard) == list(range(len(NAMES))), heard
"""
NAMES = [f"part-{number:05d}.parquet" for number in range(40)]


def rows(number: int) -> list[dict]:
    rng = np.random.default_rng(number)
    return [
        {"question_id": f"{number}-{i}", "token_ids": rng.integers(0, 9999, 30), "log_probs": -rng.random(30)}
        for i in range(200)
    ]


def make(number: int, path: Path, stuck: float = 0) -> None:
    """What `store.write` writes, then a line in `made`.

    `stuck`: the share of the shards that stay half-written until the file `slow` goes.
    """
    home = path.parent.parent
    with tempfile.TemporaryDirectory() as elsewhere:
        store.write(Path(elsewhere) / "shard", rows(number))
        content = (Path(elsewhere) / "shard").read_bytes()
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        is_stuck = random.random() < stuck
        while is_stuck and (home / "slow").exists():
            time.sleep(0.005)
        file.write(content[len(content) // 2 :])
    with (home / "made").open("a") as log:
        log.write(f"{number} {os.getpid()}\n")


def worker(folder: Path, stuck: float, start: int = 0) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-c", WORKER, str(folder), str(stuck), str(start)], env=environment)


def made(folder: Path) -> Counter:
    log = folder.parent / "made"
    return Counter(int(line.split()[0]) for line in log.read_text().splitlines()) if log.exists() else Counter()


def assert_as_undisturbed(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == NAMES  # and neither locks nor halves
    for number, name in enumerate(NAMES):
        for row, expected in zip(store.read(folder / name), rows(number), strict=True):
            assert row["question_id"] == expected["question_id"]
            np.testing.assert_array_equal(row["token_ids"], expected["token_ids"])
            np.testing.assert_array_equal(row["log_probs"], expected["log_probs"].astype(np.float32))


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, "it ended before"
        time.sleep(0.002)


def halves(folder: Path, process: subprocess.Popen) -> list[Path]:
    """What this process has half-written."""
    return list(folder.glob(f".*.{process.pid}-*.part"))


@pytest.mark.wide
def test_processes_make_each_shard_once(tmp_path: Path) -> None:
    """Nobody is slow: they meet at every shard, and at every lock file that goes."""
    folder = tmp_path / "responses"
    workers = [worker(folder, 0.0) for _ in range(3)]
    assert [process.wait(300) for process in workers] == [0, 0, 0]
    assert made(folder) == Counter(range(len(NAMES)))
    assert_as_undisturbed(folder)


@pytest.mark.wide
def test_killed_in_the_middle_of_shards_nothing_is_lost_or_made_twice(tmp_path: Path) -> None:
    """Three of six kills hit when half of a shard is written, three at any moment."""
    folder, seed = tmp_path / "responses", time.time_ns()
    rng = random.Random(seed)
    (tmp_path / "slow").touch()
    workers = [worker(folder, 0.5, start) for start in (0, 17)]
    for number in range(6):
        victim = rng.choice(workers)
        if number % 2:
            wait_for(functools.partial(halves, folder, victim), victim)
        else:
            time.sleep(rng.uniform(0, 0.5))
        victim.kill()
        victim.wait()
        workers.remove(victim)
        workers.append(worker(folder, 0.5, rng.randrange(len(NAMES))))
    (tmp_path / "slow").unlink()
    assert [process.wait(300) for process in workers] == [0, 0], f"seed {seed}"
    assert max(made(folder).values()) == 1, f"seed {seed}"
    assert_as_undisturbed(folder)


def test_who_waits_takes_over_what_a_dead_one_left(tmp_path: Path) -> None:
    folder = tmp_path / "responses"
    for number, name in enumerate(NAMES[1:], 1):
        make(number, folder / name)
    (tmp_path / "slow").touch()
    slow = worker(folder, 1.0)
    wait_for(functools.partial(halves, folder, slow), slow)
    heard: list[int] = []
    waiting = threading.Thread(target=shards.fill, args=(folder, NAMES, make, heard.append), daemon=True)
    waiting.start()
    time.sleep(0.3)
    assert len(heard) == len(NAMES) - 1 and waiting.is_alive() and not (folder / NAMES[0]).exists()
    slow.kill()
    slow.wait()
    waiting.join(10)
    assert not waiting.is_alive() and len(heard) == len(NAMES)
    assert_as_undisturbed(folder)


def test_an_error_frees_the_shard_for_others(tmp_path: Path) -> None:
    folder = tmp_path / "responses"
    failing = threading.Event()

    def fails(number: int, path: Path) -> None:
        if number != 3:
            return make(number, path)
        with whole_file(path) as temporary:
            temporary.write_bytes(b"half")
            failing.set()
            time.sleep(0.3)  # the other one waits by now
            raise UserError("the server is gone")

    def fill() -> None:
        with pytest.raises(UserError, match="the server is gone"):
            shards.fill(folder, NAMES[:5], fails)
        raised.set()

    raised, other = threading.Event(), threading.Thread(target=fill)
    other.start()
    failing.wait(10)
    shards.fill(folder, NAMES[:5], make)
    other.join(10)
    assert raised.is_set() and made(folder) == Counter(range(5))
    assert sorted(path.name for path in folder.iterdir()) == NAMES[:5]


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "responses"
    first = shards.fill(folder, NAMES[:3], make)
    before = [path.stat().st_mtime_ns for path in first]
    (folder / f".{NAMES[1]}.lock").touch()  # its holder was killed between the shard and the lock
    heard: list[int] = []

    def never(number: int, path: Path) -> None:
        raise AssertionError(number)

    assert shards.fill(folder, NAMES[:3], never, heard.append, [5, 6, 7], start=2) == first
    assert heard == [7, 5, 6] and before == [path.stat().st_mtime_ns for path in first]
    assert sorted(path.name for path in folder.iterdir()) == NAMES[:3]
    assert shards.fill(tmp_path / "none", [], never) == []


def test_a_maker_that_writes_nothing_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="left no file"):
        shards.fill(tmp_path, NAMES[:1], lambda number, path: None)
