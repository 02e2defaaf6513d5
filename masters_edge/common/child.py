"""A child process that speaks JSON lines: what it says, and why it ended."""

import json
import signal
from collections.abc import Iterable, Iterator
from typing import Any


def objects(lines: Iterable[bytes | str]) -> Iterator[dict[str, Any]]:
    """The JSON objects among a process's lines, as they come; what else it (or a library in it) prints is skipped."""
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def last_words(status: int, stderr: str) -> str:
    """The last line that a process wrote to standard error; its exit status where it wrote nothing."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"status {status}"


def ending(status: int, stderr: str) -> str:
    """Why a process ended, from its exit status and what it wrote to standard error: a part of a sentence."""
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name}"
    return f"its process failed ({last_words(status, stderr)})"
