"""What a test session makes once and all of its processes share: tiny checkpoints, exported bundles."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def root() -> Path:
    """A folder of this session (tests/conftest.py makes and removes it)."""
    folder = Path(os.environ["MASTERS_EDGE_TESTS"])
    folder.mkdir(exist_ok=True)
    return folder


def once(name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name`, which the first process that asks has made by `make`; others wait for it.

    `make` writes the folder it is given, which gets its name when it is whole.
    """
    place, part = root() / name, root() / f"{name}.part"
    with FileLock(root() / f"{name}.lock"):
        if not place.exists():
            shutil.rmtree(part, ignore_errors=True)  # of a process that died
            make(part)
            part.rename(place)
    return place
