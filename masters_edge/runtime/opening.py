"""Open a bundle on a runtime: the one that is named, or the one that is fastest here."""

import importlib
from pathlib import Path

from masters_edge.common.errors import UserError
from masters_edge.runtime import backends, fastest
from masters_edge.runtime.backends import Backend, WholeBackend


def open_backend(
    name: str, target: str, folder: Path, graphs: dict[str, str], threads: int, exact: bool = False
) -> Backend | WholeBackend:
    """Load the bundle's graphs. `auto` takes what is fastest here (`fastest.py`); the backend's `choice` says why.

    Raises UserError for an unknown backend, or one that can't run this target.
    """
    if name == "auto":
        choice = fastest.choose(target, folder, graphs, threads, exact)
        opened = open_backend(choice.backend, target, folder, graphs, threads, exact)
        opened.choice = choice
        return opened
    if name not in backends.names():
        raise UserError(f"there is no backend {name!r}; use one of: auto, {', '.join(backends.names())}")
    module = importlib.import_module(f"{backends.__name__}.{name}")
    if target not in module.AVAILABLE_FOR:
        able = [other for other, module in backends.modules().items() if target in module.AVAILABLE_FOR]
        raise UserError(f"a bundle for {target} can't run on backend {name!r}; use one of: auto, {', '.join(able)}")
    try:
        opened = module.open_backend(folder, graphs, threads, exact)
    except ImportError as error:
        raise UserError(
            f"{folder} is a bundle for {target}, which needs a package that can't be imported here ({error}); "
            f"run: pip install {module.PACKAGE}"
        ) from None
    opened.choice = None
    return opened
