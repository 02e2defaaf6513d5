"""Where the protocol runs: this machine now, boards and browsers later. One file per kind of device.

A module has `describe(address) -> results.Device`, `usable_threads(address) -> int` and
`measure(subject, suite, options, on_progress, *, sha256) -> Measurement`.
"""

import difflib
from importlib import import_module
from types import ModuleType

from masters_edge.errors import UserError

# scheme of the address ("ssh" of ssh://user@board) -> module; the browser and adb follow, a file each
KINDS = {"local": "masters_edge.benchmarks.devices.local"}


def module_of(device: str) -> ModuleType:
    """The module for `device` ("local"), or a UserError with the nearest one."""
    kind = device.partition("://")[0]
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]!r}" if near else f"use one of: {', '.join(sorted(KINDS))}"
        raise UserError(f"there is no device {device!r}; {hint}")
    return import_module(KINDS[kind])
