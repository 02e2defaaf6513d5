"""Real worker processes: quiet, reused, and mortal without taking others along."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from masters_edge.ablate.workers import Workers
from masters_edge.common.errors import UserError


def do(task: str) -> str:
    print(f"doing {task}")
    if task == "refused":
        raise UserError("mend the recipe")
    if task == "broken":
        raise ZeroDivisionError("by zero")
    if task == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "slow":
        time.sleep(60)
    return f"{task} by {os.getpid()}"


def test_tasks_end_one_by_one_and_a_dead_worker_is_replaced(tmp_path: Path, capfd) -> None:
    tasks, found = ["a", "refused", "broken", "killed", "b", "c"], {}
    with Workers(1, do, lambda task: tmp_path / f"{task}.log", threads=1) as pool:
        for task in tasks:
            assert pool.free
            pool.start(task)
            (done,) = pool.wait()
            found[done.task] = done
    assert found["a"].result.startswith("a by") and found["a"].failure is None
    assert found["refused"].failure == "mend the recipe"
    assert found["broken"].failure.startswith("ZeroDivisionError: by zero (traceback in ")
    assert "ZeroDivisionError" in (tmp_path / "broken.log").read_text()
    assert found["killed"].failure == "its process was ended by SIGKILL (out of memory?)"
    pids = {task: found[task].result.split()[-1] for task in ("a", "b", "c")}
    assert pids["b"] == pids["c"] != pids["a"]  # long-lived, until one dies
    assert (tmp_path / "a.log").read_text() == "doing a\n"
    assert "doing" not in "".join(capfd.readouterr())


def test_leaving_stops_the_workers(tmp_path: Path) -> None:
    with Workers(2, do, lambda task: tmp_path / task) as pool:
        pool.start("slow")
        assert pool.running == ["slow"] and pool.wait(timeout=0.1) == []
        children = [c for c in psutil.Process().children() if "spawn_main" in " ".join(c.cmdline())]
    assert len(children) == 2 and not any(child.is_running() for child in children)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\nfrom tests.ablate.test_workers import Workers, do\n"
        "if __name__ == '__main__':\n"
        f"    pool = Workers(1, do, lambda task: Path({str(tmp_path)!r}) / task)\n"
        "    pool.start('slow')\n    pool.wait()\n"
    )
    (tmp_path / "program.py").write_text(program)
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen([sys.executable, str(tmp_path / "program.py")], env={**os.environ, "PYTHONPATH": root})
    while not (tmp_path / "slow").exists():
        time.sleep(0.02)
    children = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    assert children
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
