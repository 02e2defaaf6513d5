"""Long-lived worker processes: each does one task after the other, quietly, and one that dies takes only its own along.

Started by spawn, since torch doesn't survive a fork. A worker writes what it would say into the task's log, leaves
Ctrl-C to its parent, and ends with its parent however that ends.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any, Generic, TypeVar

from masters_edge.common.errors import UserError

Item = TypeVar("Item")
_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Done(Generic[Item]):
    """A task's end: its result, or the sentence that says why there is none."""

    task: Item
    result: Any = None
    failure: str | None = None


class Workers(Generic[Item]):
    """`count` processes that call `perform(task)`; `log(task)` names the file for a task's output."""

    def __init__(
        self, count: int, perform: Callable[[Item], Any], log: Callable[[Item], Path], threads: int | None = None
    ) -> None:
        self.perform, self.log, self.threads = perform, log, threads
        self._idle = [_Worker(perform, threads) for _ in range(count)]
        self._busy: dict[Any, tuple[_Worker, Item]] = {}

    def __enter__(self) -> "Workers[Item]":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            worker.stop()

    @property
    def free(self) -> bool:
        return bool(self._idle)

    @property
    def running(self) -> list[Item]:
        return [task for _, task in self._busy.values()]

    def start(self, task: Item) -> None:
        worker = self._idle.pop()
        self._busy[worker.pipe] = worker, task
        worker.send(task, self.log(task))

    def wait(self, timeout: float | None = None) -> list[Done[Item]]:
        """Tasks that ended, at least one unless the time is over."""
        found = []
        for pipe in connection.wait(list(self._busy), timeout):
            worker, task = self._busy.pop(pipe)
            try:
                found.append(Done(task, *worker.pipe.recv()))
                self._idle.append(worker)
            except (EOFError, OSError):  # it died: its end of the pipe is closed
                found.append(Done(task, failure=worker.epitaph()))
                self._idle.append(_Worker(self.perform, self.threads))
        return found


class _Worker:
    def __init__(self, perform: Callable[[Any], Any], threads: int | None) -> None:
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_work, args=(theirs, perform, threads), daemon=True)
        self.process.start()
        theirs.close()

    def send(self, task: Any, log: Path) -> None:
        try:
            self.pipe.send((task, log))
        except OSError:  # it died while it was idle: `wait` hears of it
            return

    def epitaph(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        if code < 0:
            name = signal.Signals(-code).name
            return f"its process was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        return f"its process ended with exit status {code}"

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def _work(pipe: connection.Connection, perform: Callable[[Any], Any], threads: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is imported
    from masters_edge.common.quiet import hush

    hush()
    while True:
        try:
            task, log = pipe.recv()
        except EOFError:
            return
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            answer: tuple[Any, str | None] = (perform(task), None)
        except UserError as error:
            answer = (None, str(error))
            print(error, flush=True)
        except Exception as error:
            traceback.print_exc()
            answer = (None, f"{type(error).__name__}: {error} (traceback in {log})")
        sys.stdout.flush()
        sys.stderr.flush()
        pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
