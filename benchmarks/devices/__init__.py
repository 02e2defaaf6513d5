"""Where the protocol runs: this machine, boards over ssh, browsers. One file per kind of device.

A device's module has `connect(address, wanted)`, a context manager that gives a `Place`, and `PEERS`: the kinds of
subjects that can be measured there, each with the module that knows it (see `masters_edge.benchmarks.peers`). A new
kind of device is one file and one line here.
"""

import difflib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

from masters_edge.common.errors import UserError

if TYPE_CHECKING:
    from masters_edge.benchmarks.progress import OnProgress
    from masters_edge.benchmarks.protocol import Subject
    from masters_edge.benchmarks.results import Device

# what an address begins with ("ssh" of ssh://user@board, "adb" of adb:SERIAL) -> module
KINDS = {
    "local": "masters_edge.benchmarks.devices.local",
    "ssh": "masters_edge.benchmarks.devices.ssh",
    "browser": "masters_edge.benchmarks.devices.browser",
    "adb": "masters_edge.benchmarks.devices.adb",
}

OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Wanted:
    """What connecting may need to know.

    `packages`: what the subjects' runtimes need there (pip names). `on_note` hears a sentence or a few lines for the
    person at the terminal. The rest is for devices that open a link: `lan` lets other machines of the network reach
    it, with `https` by a certificate of its own; `port` is None for the usual one.
    """

    packages: Sequence[str] = ()
    on_progress: "OnProgress | None" = None
    on_note: Callable[[str], None] | None = None
    lan: bool = False
    https: bool = True
    port: int | None = None

    def step(self, address: str, phase: str, done: int = 0) -> None:
        """What is done to reach the device, for the progress bar; 1 is done."""
        if self.on_progress is not None:
            from masters_edge.benchmarks.progress import Step  # brings rich, which a board's worker does without

            self.on_progress(Step(address, phase, done, 1))

    def note(self, text: str) -> None:
        """Say it, where somebody listens."""
        if self.on_note is not None:
            self.on_note(text)


class Lost(UserError):
    """The device can't be reached any more: measuring stops, and goes on with the same command later."""


class Place(Protocol):
    """A connected device. `device` is what it says of itself; `usable_threads` are its free physical cores, and
    `most_threads` how many can be had where there is a bound; `notes` is what is other there than here, a sentence
    each."""

    device: "Device"
    usable_threads: int
    most_threads: int | None
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
    """The module for a device ("local", "ssh://user@board", "adb:SERIAL"), or a UserError with the nearest one."""
    kind = address.partition(":")[0]
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]!r}" if near else f"use one of: {', '.join(sorted(KINDS))}"
        raise UserError(f"there is no device {address!r}; {hint}")
    return import_module(KINDS[kind])


def peer_of(address: str, kind: str) -> ModuleType | None:
    """The module that knows this kind of subject on that device; None where none of it can be measured there."""
    peers: dict[str, str] = module_of(address).PEERS
    return import_module(peers[kind]) if kind in peers else None


def connect(address: str, wanted: Wanted = Wanted()) -> AbstractContextManager[Place]:
    """The device at this address, ready to measure."""
    return cast(AbstractContextManager[Place], module_of(address).connect(address, wanted))
