"""Things found by the name of their file: one target, one scheme, one model family a file, and no list to keep."""

import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable
from types import ModuleType

from masters_edge.common.errors import UserError


def names(package: ModuleType | str) -> list[str]:
    """Modules of `package` (or of the package with that name) whose name has no leading underscore.

    None of them is imported; of a package given by name, its parents are.
    """
    if isinstance(package, str):
        found = importlib.util.find_spec(package)
        places = list(found.submodule_search_locations or []) if found else []
    else:
        places = list(package.__path__)
    return sorted(module.name for module in pkgutil.iter_modules(places) if not module.name.startswith("_"))


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
