"""`fakes` for a board: it logs outside its folder (`log`), which is copied and cleaned up, and takes `answer_s`."""

import time
from pathlib import Path
from typing import Any

from tests.benchmarks import fakes

COLD_STARTS = 1


class BoardFake(fakes.Fake):
    def __init__(self, path: str, threads: int, backend: str) -> None:
        super().__init__(path, threads, backend)
        self.log = Path(self.behaviour["log"])

    def answer(self, image: Any, question: str, exactly: int | None = None) -> Any:
        time.sleep(self.behaviour.get("answer_s", 0))
        return super().answer(image, question, exactly)


def open_subject(path: str, threads: int, backend: str = "auto") -> BoardFake:
    return BoardFake(path, threads, backend)


def __getattr__(name: str) -> Any:
    """All else that a kind of subject has."""
    return getattr(fakes, name)
