"""A child process that speaks JSON lines: what it says, and why it ended."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

MOST_KEPT = 64 << 10  # bytes of what a process says last


def objects(lines: Iterable[bytes | str]) -> Iterator[dict[str, Any]]:
    """The JSON objects among a process's lines, as they come; what else it (or a library in it) prints is skipped."""
    for line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found


class Tail:
    """The end of what a process writes to a pipe, read as it comes, so that nothing waits and no disk fills."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._kept = stream, b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream, contextlib.suppress(OSError, ValueError):  # closed meanwhile
            while block := os.read(self._stream.fileno(), 1 << 16):
                self._kept = (self._kept + block)[-MOST_KEPT:]

    def text(self) -> str:
        """What was kept, once the process has ended."""
        self._thread.join(2)
        return self._kept.decode("utf-8", "replace")


def output(command: Sequence[str], patience_s: float, most: int) -> tuple[int, bytes, bytes]:
    """Exit status, stdout and stderr of a program that gets no input; in a session of its own.

    Raises:
        subprocess.TimeoutExpired: it isn't done within `patience_s`, and is ended.
        OSError: it can't be started, or writes more than `most` bytes.
    """
    found: dict[str, bytes] = {}

    def take(name: str, stream: IO[bytes]) -> None:
        with stream, contextlib.suppress(OSError, ValueError):
            found[name] = stream.read(most + 1)

    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        threads = [
            threading.Thread(target=take, args=pair, daemon=True)
            for pair in (("out", process.stdout), ("err", process.stderr))
        ]
        for thread in threads:
            thread.start()
        try:
            status = process.wait(patience_s)
        except BaseException:
            process.kill()
            raise
        for thread in threads:
            thread.join(patience_s)
    out, err = found.get("out", b""), found.get("err", b"")
    if max(len(out), len(err)) > most:
        raise OSError(errno.EFBIG, f"it writes more than {most:,} bytes")
    return status, out, err


def last_words(status: int, stderr: str) -> str:
    """The last line that a process wrote to standard error; its exit status where it wrote nothing."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"status {status}"


def ending(status: int, stderr: str) -> str:
    """Why a process ended, from its exit status and what it wrote to standard error: a part of a sentence."""
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name}"
    return f"its process failed ({last_words(status, stderr)})"
