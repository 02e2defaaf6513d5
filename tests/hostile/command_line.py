"""The command line in this process, and what a user must never see of it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

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
