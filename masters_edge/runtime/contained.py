"""A runtime in a process of its own: what it dies of, or hangs in, stays there, and is a sentence here.

Who proves files on a runtime (the export's gate) asks it through `Contained`. In: what a backend's methods take. Out:
what they return, pickled over two pipes between the ends in this file.
"""

import contextlib
import gc
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typing_extensions import Self

from masters_edge.common import child
from masters_edge.common.errors import UserError
from masters_edge.runtime import backends
from masters_edge.runtime.opening import open_backend

LIMIT_S = 900  # for one thing asked of a runtime; a large student takes minutes to compile
TRY_OUT_S = 60


class RuntimeDied(UserError):
    """A runtime took its process with it, or didn't come back."""


class Remote:
    """A backend that lives in another process: its public methods and attributes, under their own names."""

    def __init__(self, contained: "Contained", callables: dict[str, bool]) -> None:
        self._contained, self._callables = contained, callables

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._callables:
            raise AttributeError(name)
        if not self._callables[name]:
            return self._contained.ask("get", name)
        if name == "answer":
            return self._answer
        return lambda *args, **options: self._contained.ask("call", name, args, options)

    def _answer(self, *args: Any, top: int = 0) -> Any:
        """A whole answer; who listens for its tokens hears them when it is done."""
        question, max_new_tokens, stop_ids, hear = [*args, None][:4]
        found = self._contained.ask("call", "answer", (question, max_new_tokens, stop_ids), {"top": top})
        for token in found.token_ids if hear else []:
            hear(token)
        return found


class Contained(contextlib.AbstractContextManager):
    """A process in which one runtime's backends are opened, one at a time; a new one where the last was lost.

    As a context manager it gets ready meanwhile, and ends at the end.
    """

    def __init__(self, backend: str, target: str, threads: int) -> None:
        self.backend, self.target, self.threads = backend, target, threads
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self) -> None:
        if self._process is None:
            self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process lives
            command = [sys.executable, "-m", __name__]
            environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._said, env=environment)

    def open(self, folder: Path, graphs: dict[str, str], exact: bool, name: str | None = None) -> Remote:
        """A backend on these files (`name`: with one of its settings); one opened before is closed.

        Raises UserError as the backend does, or `RuntimeDied`, then and whenever it is asked anything.
        """
        name = name or self.backend
        self._words = "its most exact settings" if exact else backends.setting_of(name)
        job = dict(target=self.target, folder=folder, graphs=graphs, threads=self.threads, exact=exact)
        return Remote(self, self.ask("open", name, job))

    def try_out(self) -> None:
        """The smallest use of the runtime, without a bundle; raises UserError as `open` does."""
        self._words = "the smallest thing that it can be asked"
        self.ask("try out", self.backend, limit_s=TRY_OUT_S)

    def ask(self, *request: Any, limit_s: float | None = None) -> Any:
        """What the process answers within `limit_s`, by default `LIMIT_S`."""
        self._start()
        limit_s = limit_s or LIMIT_S
        overdue, process = threading.Event(), self._process
        assert process is not None and process.stdin is not None and process.stdout is not None

        def end() -> None:
            overdue.set()
            process.kill()

        limit = threading.Timer(limit_s, end)
        limit.daemon = True
        limit.start()
        try:
            pickle.dump(request, process.stdin, protocol=5)
            process.stdin.flush()
            kind, found = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise RuntimeDied(self._obituary(limit_s if overdue.is_set() else None)) from None
        except BaseException:  # interrupted half way: what comes next would be the answer to this
            self.close()
            raise
        finally:
            limit.cancel()
        if kind == "error":
            raise UserError(found)
        if kind == "traceback":
            raise RuntimeError(f"in the runtime's own process:\n{found}")
        return found

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # some runtimes take long to clean up, and nothing of theirs is needed any more
            process.wait()
            for stream in (process.stdin, process.stdout, self._said):
                with contextlib.suppress(OSError):  # what couldn't be written to a process that died
                    stream and stream.close()

    def _obituary(self, overdue_s: float | None) -> str:
        process = self._process
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        self._said.seek(0)
        why = f"it gave no answer in {overdue_s} s and was ended"
        if overdue_s is None:
            why = child.ending(process.poll() or 0, self._said.read().decode(errors="replace"))
        self.close()
        return f"{backends.runtime(self.backend)} fails at {self._words}: {why}"


def main() -> None:
    """The other end."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    ways: dict[str, Callable[..., Any]] = {"open": _open, "get": _get, "call": _call, "try out": _try_out}
    while True:
        try:
            what, *about = pickle.load(sys.stdin.buffer)
        except EOFError:
            answers.close()
            os._exit(0)
        try:
            found = "found", ways[what](*about)
        except UserError as error:
            found = "error", str(error)
        except Exception:
            found = "traceback", traceback.format_exc()
        pickle.dump(found, answers, protocol=5)
        answers.flush()


_opened: Any = None


def _open(name: str, job: dict[str, Any]) -> dict[str, bool]:
    global _opened
    getattr(_opened, "close", lambda: None)()
    _opened = None
    gc.collect()
    _opened = open_backend(name, **job)
    return {name: callable(getattr(_opened, name)) for name in dir(_opened) if not name.startswith("_")}


def _try_out(name: str) -> None:
    backends.module(name).try_out()


def _get(name: str) -> Any:
    return getattr(_opened, name)


def _call(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return getattr(_opened, name)(*args, **options)


if __name__ == "__main__":
    main()
