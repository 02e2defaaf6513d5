"""Runtimes a student can run on: one file per backend, found by its name. A new backend touches no other file.

Most run the student's three parts, one by one (`Backend`). llama.cpp answers whole questions by its own code
(`WholeBackend`). A backend's module names the `PACKAGE` it needs, which it imports when it opens, says with
`AVAILABLE_FOR` which bundle targets it runs and with `SUFFIXES` how their graphs' names end, and makes one of the two
with `open_backend(folder, graphs, threads, exact)`. `exact` asks for the most exact arithmetic the runtime has, False
for the fast one that ships.
"""

import importlib
import pkgutil
from types import ModuleType

from masters_edge.runtime.backends._protocols import Backend, Choice, WholeAnswer, WholeBackend, WholeQuestion

__all__ = ["Backend", "Choice", "WholeAnswer", "WholeBackend", "WholeQuestion", "modules", "names", "package"]


def names() -> list[str]:
    """Every backend this version knows, installed or not."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def package(name: str) -> str:
    """The package that a backend runs on."""
    return importlib.import_module(f"{__name__}.{name}").PACKAGE


def modules() -> dict[str, ModuleType]:
    """Every backend's module by name; they import their runtime no earlier than they open."""
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names()}
