"""Runtimes a student can run on: one file per backend, found by its name. A new backend touches no other file.

Most run the student's three parts, one by one (`Backend`). llama.cpp answers whole questions by its own code
(`WholeBackend`). A backend's module names the `PACKAGE` it needs, which it imports when it opens, says with
`AVAILABLE_FOR` which bundle targets it runs and with `SUFFIXES` how their graphs' names end, and makes one of the two
with `open_backend(folder, graphs, threads, exact)`. `exact` asks for the most exact arithmetic the runtime has, False
for the fast one that ships. Where a runtime may die of the fast one, `SETTINGS` names others, which `open_backend`
takes as `setting`; the backend is then called by both names (`openvino:f32`). `try_out` is the smallest use of the
runtime, without a bundle.
"""

import importlib
import pkgutil
from types import ModuleType

from masters_edge.common.errors import UserError
from masters_edge.common.versions import installed
from masters_edge.runtime.backends._protocols import Backend, Choice, WholeAnswer, WholeBackend, WholeQuestion

__all__ = [
    "Backend",
    "Choice",
    "WholeAnswer",
    "WholeBackend",
    "WholeQuestion",
    "module",
    "modules",
    "names",
    "package",
    "runtime",
    "setting_of",
    "settings",
]


def names() -> list[str]:
    """Every backend this version knows, installed or not."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def package(name: str) -> str:
    """The package that a backend runs on."""
    return module(name).PACKAGE


def module(name: str) -> ModuleType:
    """A backend's module, its name alone or with a setting; raises UserError for one that there isn't."""
    name, _, setting = name.partition(":")
    if name not in names():
        raise UserError(f"there is no backend {name!r}; use one of: auto, {', '.join(names())}")
    found = importlib.import_module(f"{__name__}.{name}")
    known = getattr(found, "SETTINGS", ())
    if setting and setting not in known:
        raise UserError(f"the backend {name} has no setting {setting!r}; it has: {', '.join(known) or 'none'}")
    return found


def settings(name: str) -> list[str]:
    """A backend's name, then with each of its settings: fastest first."""
    return [name, *(f"{name}:{setting}" for setting in getattr(module(name), "SETTINGS", ()))]


def runtime(name: str) -> str:
    """A backend's package and its version, for sentences."""
    wanted = package(name)
    version = installed(wanted).get(wanted)
    return f"{wanted} {version}" if version else wanted


def setting_of(name: str) -> str:
    """A backend's setting (`openvino:f32`) for sentences, behind "at"."""
    _, _, setting = name.partition(":")
    return f"the setting {setting}" if setting else "the settings that ship"


def modules() -> dict[str, ModuleType]:
    """Every backend's module by name; they import their runtime no earlier than they open."""
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names()}
