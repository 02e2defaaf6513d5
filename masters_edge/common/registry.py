"""Things found by the name of their file: one target, one scheme, one model family a file, and no list to keep."""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType

from masters_edge.common.errors import UserError


def names(package: ModuleType) -> list[str]:
    """Modules of `package` whose name has no leading underscore; none of them is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def check(name: str, kind: str, valid: Iterable[str]) -> None:
    """Raise UserError with the nearest valid name where `name` isn't one."""
    valid = list(valid)
    if name not in valid:
        near = difflib.get_close_matches(name, valid, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of: {', '.join(valid)}"
        raise UserError(f"there is no {kind} {name!r}; {hint}")


def load(package: ModuleType, name: str) -> ModuleType:
    """Import the module called `name`."""
    return importlib.import_module(f"{package.__name__}.{name}")
