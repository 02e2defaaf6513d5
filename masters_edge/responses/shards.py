"""Who makes which shard: any number of processes, of one command or of several, here or on machines that share the
folder, fill it together.

In: a folder, the names of its files, and how one is made. Out: those files, all there. Who makes a shard holds its
lock, which the operating system frees when the process dies, however it dies; the next one that comes by makes the
shard from the start. As a file is renamed into place when it is whole, nothing is lost and nothing doubled.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from masters_edge.common.files import sweep

_PAUSE = (0.05, 1.0)  # seconds between two looks at what others hold: first, longest


def fill(
    folder: Path,
    names: Sequence[str],
    make: Callable[[int, Path], None],
    on_progress: Callable[[int], None] | None = None,
    sizes: Sequence[int] | None = None,
    start: int = 0,
) -> list[Path]:
    """Make the files that are missing, together with everybody else who fills this folder; returns when all are there.

    An error of `make` frees the lock and is raised here; what it stands for is made by another process, or by the next
    call. Nobody waits for a process that failed or died.

    Args:
        folder: made where it is missing.
        names: the files, which everybody who fills the folder names alike.
        make: (number, path) writes the file to `path`, whole or not at all (`files.whole_file`, `store.write`).
        on_progress: hears the size of each file once, when it is there.
        sizes: what each file counts for in `on_progress`; 1 where none are given.
        start: the file to look at first, such as the process's rank, so that several rarely meet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in names]
    waiting = [(start + number) % len(paths) for number in range(len(paths))]
    pause = _PAUSE[0]
    while True:
        held: list[int] = []  # by others, while this process went over what was missing
        for number in waiting:
            if not _there(number, paths[number], make):
                held.append(number)
            elif on_progress:
                on_progress(1 if sizes is None else sizes[number])
        if not held:
            return paths
        pause = _PAUSE[0] if len(held) < len(waiting) else min(2 * pause, _PAUSE[1])
        waiting = held
        time.sleep(pause * random.uniform(0.5, 1.0))


def _there(number: int, path: Path, make: Callable[[int, Path], None]) -> bool:
    """Whether the file is there, made here if nobody else is at it."""
    if not path.exists():
        with _locked(path) as mine:
            if not mine:
                return False
            if not path.exists():  # else somebody made it between the two looks
                sweep(path.parent, path.name)  # of a process that died over it
                make(number, path)
                if not path.exists():
                    raise RuntimeError(f"making {path} left no file")
    # A lock file may go once its shard is there, and not before: whoever still gets the lock, of this file or of a new
    # one of the same name, looks for the shard again and finds it. Some systems keep a file that somebody has open.
    with contextlib.suppress(OSError):
        _lock_path(path).unlink()
    return True


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a file; false where another process holds it."""
    lock = FileLock(_lock_path(path))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
