"""A board on loopback whose environment is this one: everything but the installation is as it is with a real board."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from masters_edge.benchmarks import Settings, bench, peers
from masters_edge.benchmarks import job as jobs
from masters_edge.benchmarks.devices import _openssh, ssh
from masters_edge.benchmarks.progress import Step
from masters_edge.benchmarks.protocol import Subject
from masters_edge.benchmarks.suites import Suite
from tests.benchmarks import board_fakes
from tests.benchmarks.sshd import Sshd

ROOT = Path(__file__).parents[2]


class LoopbackBoard:
    """`run` measures a fake student there. `log` has a line for every question that was answered."""

    def __init__(self, folder: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.suite = folder, suite
        self.sshd = Sshd(folder / "board", {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
        self.log = folder / "log.txt"
        self.steps: list[Step] = []
        for known in (peers.KINDS, ssh.PEERS):
            monkeypatch.setitem(known, "board fake", "tests.benchmarks.board_fakes")
        monkeypatch.setenv(_openssh.CONFIG, str(self.sshd.config))
        monkeypatch.setattr(ssh, "_install", self._install)

    def _install(self, board: ssh.Board, *_: object) -> None:
        python = self.sshd.home / "envs" / "here" / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        board.environment = "here"

    def subject(self, name: str = "student", weights: int = 0, **behaviour: Any) -> Subject:
        """A student with so many bytes of weights, the same each time."""
        path = board_fakes.make(self.folder / name, log=str(self.log), **behaviour)
        if weights:
            (path / "weights.bin").write_bytes(bytes(range(251)) * (weights // 251 + 1))
        return Subject(name, "exported", path, kind="board fake")

    def run(
        self, subject: Subject, on_step: Callable[[Step], None] = lambda step: None, start: bool = True
    ) -> list[str]:
        """`bench` on this board; returns the ids of the questions that were answered, in that order."""
        if start and self.sshd.process is None:
            self.sshd.start()

        def hear(step: Step) -> None:
            self.steps.append(step)
            on_step(step)

        out = self.folder / "out" / "results.json"
        results = bench(
            [subject],
            self.suite,
            Settings(latency_questions=4, threads=1, cases=False),
            device=self.sshd.address,
            out=out,
            on_progress=hear,
        )
        [self.measurement] = results.measurements
        assert self.measurement.answers is not None
        return [row["id"] for row in jobs.read_rows(out.parent / self.measurement.answers)]

    def copied_mb(self) -> float:
        """What the last copy of weights sent, in MB."""
        copies = [step for step in self.steps if step.phase == "copy" and step.total > 0.5]
        return copies[-1].done - copies[0].done

    def leftovers(self) -> list[str]:
        """What lies on the board beside the environment."""
        rooms = ("bundles", "jobs", "pool")
        return [path.relative_to(self.sshd.home).as_posix() for r in rooms for path in (self.sshd.home / r).iterdir()]

    def times_asked(self) -> Counter[str]:
        return Counter(self.log.read_text().splitlines())
