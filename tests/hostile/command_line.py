"""The command line, in this process or in one of its own, and what a user must never see of it."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from masters_edge import cli


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str

    def refused(self, words: str) -> None:
        """It was one sentence with these words, exit status 2, and nothing that a terminal obeys."""
        self.clean()
        assert self.status == 2, (self.status, self.out, self.err)
        assert words in self.err, (words, self.err)
        assert self.err.startswith("masters-edge: ") and self.err.count("\n") == 1, self.err

    def clean(self) -> None:
        for text in (self.out, self.err):
            assert "Traceback" not in text, text
            assert all(one.isprintable() or one in "\n\t" for one in text), repr(text)


def run(arguments: Sequence[str], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Said:
    """A traceback is no `Said`, but fails the test by itself."""
    monkeypatch.setattr(sys, "argv", ["masters-edge", *map(str, arguments)])
    capsys.readouterr()
    try:
        cli.main()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    said = capsys.readouterr()
    return Said(status, said.out, said.err)


def process(arguments: Sequence[str | Path], folder: Path, environment: Mapping[str, str]) -> Said:
    """In a process of its own, in `folder`: what its threads and its end say is heard as well."""
    words = [sys.executable, "-m", "masters_edge", *map(str, arguments)]
    done = subprocess.run(words, cwd=folder, env={**os.environ, **environment}, capture_output=True, timeout=120)
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode())
