"""masters-edge that keeps one byte in the file `moment` about what it is doing, so that a test can kill it right there.

Started by tests in place of `masters_edge`; nothing else about the command changes.
"""

import contextlib
import functools
import os

from transformers import Trainer

from masters_edge.responses import scoring
from masters_edge.responses.generate import Generator
from masters_edge.training import PhaseTrainer

MOMENTS = {"g": "generating", "s": "scoring", "t": "training", "w": "saving"}
_file = os.open("moment", os.O_CREAT | os.O_RDWR)
os.pwrite(_file, b"-", 0)


@contextlib.contextmanager
def _moment(letter: str):
    before = os.pread(_file, 1, 0)
    os.pwrite(_file, letter.encode(), 0)
    yield
    os.pwrite(_file, before, 0)


def _say(owner: object, name: str, letter: str) -> None:
    method = getattr(owner, name)

    @functools.wraps(method)
    def told(*arguments, **named):
        with _moment(letter):
            return method(*arguments, **named)

    setattr(owner, name, told)


_say(Generator, "labels", "g")
_say(Generator, "_sample", "g")
_say(Generator, "_accuracy", "s")
_say(scoring, "_hidden", "s")
_say(Trainer, "training_step", "t")
_say(Trainer, "_save_checkpoint", "w")
_say(PhaseTrainer, "save_student", "w")

if __name__ == "__main__":
    from masters_edge.cli import main

    main()
