"""Stand-in HTTP servers of the tests: quiet where a client doesn't wait, and able to answer as no honest one would."""

import contextlib
import gzip
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from typing import Any, BinaryIO

MIB = 2**20


class QuietServer(ThreadingHTTPServer):
    """Says nothing of clients that hung up; of anything else a test should hear."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@dataclass(frozen=True)
class Raw:
    """An answer written byte by byte, status line and headers included; the connection ends with it."""

    write: Callable[[BinaryIO], None]


def _start(out: BinaryIO, *headers: str) -> None:
    lines = ["HTTP/1.1 200 OK", "Content-Type: application/json", "Connection: close", *headers, "", ""]
    out.write("\r\n".join(lines).encode())
    out.flush()


def _drip(out: BinaryIO) -> None:
    """A byte now and then: never too long after the one before, and never all of them."""
    _start(out, "Content-Length: 4000")
    for _ in range(400):
        out.write(b" ")
        out.flush()
        time.sleep(0.02)


def _huge(out: BinaryIO) -> None:
    _start(out)
    for _ in range(64):
        out.write(b" " * MIB)


def _packed(out: BinaryIO) -> None:
    """A little that would become much."""
    bomb = gzip.compress(bytes(MIB), 9) * 64
    _start(out, "Content-Encoding: gzip", f"Content-Length: {len(bomb)}")
    out.write(bomb)


def _silent(out: BinaryIO) -> None:
    time.sleep(8)


# What a server may do to hold on to whoever asks it, or to fill his memory.
DRIP, HUGE, PACKED, SILENT = Raw(_drip), Raw(_huge), Raw(_packed), Raw(_silent)
DEEP = b'{"choices": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
LONG_NUMBER = b'{"choices": ' + b"9" * 100_000 + b"}"


@contextlib.contextmanager
def interrupted(after: threading.Event, within_s: float = 6.0) -> Iterator[None]:
    """Ctrl-C once `after` is set; the block must have ended `within_s` seconds later, with a KeyboardInterrupt.

    Two seconds are promised; a machine that is busy with other tests has thrice that. What is deaf to it takes minutes.
    """
    pressed: list[float] = []

    def press() -> None:
        if after.wait(120):
            time.sleep(0.1)  # until whoever asked waits for the answer
            pressed.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    # A run that was started in the background has SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        assert time.monotonic() - pressed[0] < within_s
    else:
        raise AssertionError("nothing was interrupted")
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
