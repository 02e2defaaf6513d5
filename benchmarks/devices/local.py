"""This machine: the measuring process runs beside us, and dies with us."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from masters_edge.benchmarks import machine, peers
from masters_edge.benchmarks.devices import OnEvent, Place, Wanted
from masters_edge.benchmarks.protocol import Subject, follow
from masters_edge.benchmarks.results import Device
from masters_edge.common.errors import UserError

PEERS = peers.KINDS


class Here:
    """The `Place` that this process runs in."""

    most_threads: int | None = None
    notes: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.device = Device(kind="local", **machine.describe())
        self.usable_threads = machine.usable_cores()

    def versions(self, *packages: str) -> dict[str, str]:
        return machine.versions(*packages)

    def run(self, job: Path, subject: Subject, sha256: str, on_event: OnEvent) -> None:
        # The worker ends when its stdin does, so that none goes on measuring when this process was killed.
        command = [sys.executable, "-m", "masters_edge.benchmarks.worker", str(job), "--watch-stdin"]
        with (job / "stderr.txt").open("w+b") as stderr:
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr) as process:
                assert process.stdout is not None and process.stdin is not None
                try:
                    done = follow(process.stdout, subject, on_event)
                    status = process.wait()
                except BaseException:  # interrupted, an error event, or the callback failed
                    process.stdin.close()
                    try:
                        process.wait(5)  # it ends its own child first
                    except subprocess.TimeoutExpired:
                        process.kill()
                    raise
            if status or not done:
                stderr.seek(0)
                lines = [line for line in stderr.read().decode("utf-8", "replace").splitlines() if line.strip()]
                reason = lines[-1].strip() if lines else f"its process ended with status {status} and said nothing"
                raise UserError(f"measuring {subject.name} stopped: {reason}")


@contextmanager
def connect(address: str, wanted: Wanted) -> Iterator[Place]:
    yield Here()
