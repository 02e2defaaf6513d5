"""The measuring process: `python -m masters_edge.benchmarks.worker FOLDER` does the job of a folder (see `job.py`).

It starts fresh processes, one for each cold start and one for everything else, so that peak memory and cold start are
the subject's own, and writes JSON lines to stdout: {"event": "progress" | "error" | "done", ...}. What an earlier try
left in FOLDER/raw is not done again. Exit status: 0 done, 2 not (after an error event).

Nothing that the subject itself doesn't need is imported before its first answer; stray prints of libraries go to
stderr.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from masters_edge.benchmarks import job as jobs
from masters_edge.benchmarks.events import Events
from masters_edge.common.errors import UserError

_STDERR, _LOCK = "stderr-of-subject.txt", ".lock"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="masters_edge.benchmarks.worker", description=__doc__)
    parser.add_argument("folder", type=Path, help="the job folder")
    parser.add_argument("--watch-stdin", action="store_true", help="end when stdin does, with the one who listens")
    parser.add_argument("--only", choices=("choose", "cold", "all"), help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)  # time.time() when that was started
    options = parser.parse_args(arguments)
    if options.watch_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    with _own_stdout() as stream:
        emit = Events(stream)
        try:
            return _main(options, emit)
        except UserError as error:
            emit("error", message=str(error))
        except BrokenPipeError:  # nobody listens any more
            os._exit(1)
        except OSError as error:  # most likely a full disk
            if error.filename is None and error.strerror is None:
                raise
            emit("error", message=f"{error.filename or options.folder}: {error.strerror}")
    return 2


def _main(options: argparse.Namespace, emit: Events) -> int:
    folder = options.folder
    job = jobs.read_json(folder / jobs.JOB)
    if job is None:
        raise UserError(f"{folder} is no job folder, it has no {jobs.JOB}")
    if options.only is not None:
        from masters_edge.benchmarks import phases

        if options.only == "choose":
            phases.choose(folder, job)
        else:
            phases.run(folder, job, options.started, emit, only_cold=options.only == "cold")
        return 0
    with _alone(folder):
        status = _do(folder, job, emit)
    if status == 0:
        emit("done")
    return status


def _do(folder: Path, job: dict[str, Any], emit: Events) -> int:
    """Every process that is still to run, one after the other; the exit status of the first that fails."""
    raw = folder / jobs.RAW
    raw.mkdir(exist_ok=True)
    if (raw / jobs.DONE).exists():
        return 0
    if job["choose"] and not (raw / jobs.CHOICE).exists():
        emit.progress("choosing the runtime", 0, 1)
        if status := _child(folder, job, "choose", emit):
            return status
    wanted = job["cold_starts"]
    while True:
        done = len(jobs.mend_rows(raw / jobs.COLD))
        emit.progress("start", done, wanted)
        # The process that measures everything else gives the last of the cold starts.
        last = done >= wanted - 1
        if status := _child(folder, job, "all" if last else "cold", emit):
            return status
        if last:
            return 0
        if len(jobs.mend_rows(raw / jobs.COLD)) == done:
            raise UserError(f"a cold start left no line in {raw / jobs.COLD}; is the disk full?")


def _child(folder: Path, job: dict[str, Any], only: str, emit: Events) -> int:
    """One fresh process from start to end, its events straight to our stdout; 0, or 2 where it has said why not."""
    threads = str(job["threads"])
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "masters_edge.benchmarks.worker", str(folder), "--watch-stdin", "--only", only]
    with (folder / _STDERR).open("w+b") as stderr:
        process = subprocess.Popen(
            [*command, "--started", repr(time.time())],
            env=environment,
            stdin=subprocess.PIPE,  # never written to: it closes when this process ends, however it ends
            stdout=emit.stream,
            stderr=stderr,
        )
        try:
            status = process.wait()
        finally:
            process.kill()  # interrupted
            process.wait()
        if status in (0, 2):
            return status
        stderr.seek(0)
        raise UserError(_last_words(stderr.read().decode("utf-8", "replace"), status))


def _last_words(said: str, status: int) -> str:
    """Why a process that gave no result ended: its last line on stderr, or the signal."""
    if status < 0:
        name = str(-status)
        with contextlib.suppress(ValueError):
            name = signal.Signals(-status).name
        memory = ", most likely for want of memory" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{memory}"
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"its process ended with status {status} and said nothing"


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder, so that no second process measures into it; let go of when this process ends, however it does.
    Windows has no such lock, and goes without."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another process is measuring in {folder}; wait for its end, or stop it") from None
        yield


def _end_with_stdin() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


@contextlib.contextmanager
def _own_stdout() -> Iterator[IO[str]]:
    """The real stdout for events alone; whatever else prints to stdout lands on stderr."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stream:
        os.dup2(2, 1)
        yield stream


if __name__ == "__main__":
    sys.exit(main())
