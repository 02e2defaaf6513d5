"""Where the protocol runs: this machine, boards over ssh, browsers later. One file per kind of device.

A device's module has `connect(address, packages, on_progress)`, a context manager that gives a `Place`, and
`CHECKPOINTS`: whether PyTorch checkpoints can be measured there. A new kind of device is one file and one line here.
"""

import difflib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

from masters_edge.errors import UserError

if TYPE_CHECKING:
    from masters_edge.benchmarks.progress import OnProgress
    from masters_edge.benchmarks.protocol import Subject
    from masters_edge.benchmarks.results import Device

# scheme of the address ("ssh" of ssh://user@board) -> module
KINDS = {
    "local": "masters_edge.benchmarks.devices.local",
    "ssh": "masters_edge.benchmarks.devices.ssh",
}

OnEvent = Callable[[dict[str, Any]], None]


class Lost(UserError):
    """The device can't be reached any more: measuring stops, and goes on with the same command later."""


class Place(Protocol):
    """A connected device. `device` is what it says of itself; `usable_threads` are its free physical cores; `notes`
    is what is other there than here, a sentence each."""

    device: "Device"
    usable_threads: int
    notes: tuple[str, ...]

    def versions(self, *packages: str) -> dict[str, str]:
        """Those of the packages that are installed there, with their versions."""

    def run(self, job: Path, subject: "Subject", sha256: str, on_event: OnEvent) -> None:
        """Do the job (`masters_edge.benchmarks.job`) there; afterwards job/raw/ is complete here.

        Files that an earlier try left in job/raw/ are gone on from. `on_event` hears the worker's events as they come:
        {"event": "progress", "phase", "done", "total", "right"}. Raises UserError where the subject can't be measured,
        and `Lost` where the device is gone.
        """


def module_of(address: str) -> ModuleType:
    """The module for a device ("local", "ssh://user@board"), or a UserError with the nearest one."""
    kind = address.partition("://")[0]
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]!r}" if near else f"use one of: {', '.join(sorted(KINDS))}"
        raise UserError(f"there is no device {address!r}; {hint}")
    return import_module(KINDS[kind])


def connect(
    address: str, packages: Sequence[str] = (), on_progress: "OnProgress | None" = None
) -> AbstractContextManager[Place]:
    """The device at this address, ready to measure. `packages`: what the subjects' runtimes need there (pip names)."""
    return cast(AbstractContextManager[Place], module_of(address).connect(address, packages, on_progress))
