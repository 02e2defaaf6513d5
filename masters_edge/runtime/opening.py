"""Open a bundle on a runtime: the one that is named, or the one that is fastest here."""

import os
from pathlib import Path

from masters_edge.bundle import onnx_files
from masters_edge.common import inside
from masters_edge.common.errors import UserError, reason
from masters_edge.runtime import backends, fastest
from masters_edge.runtime.backends import Backend, WholeBackend

_PARTS = ("vision_encoder", "embed_tokens", "decoder")


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
    module, (_, _, setting) = backends.module(name), name.partition(":")
    if target not in module.AVAILABLE_FOR:
        able = [other for other, module in backends.modules().items() if target in module.AVAILABLE_FOR]
        raise UserError(f"a bundle for {target} can't run on backend {name!r}; use one of: auto, {', '.join(able)}")
    _check(folder, graphs, module.SUFFIXES)
    try:
        opened = module.open_backend(folder, graphs, threads, exact, **({"setting": setting} if setting else {}))
    except ImportError as error:
        raise UserError(
            f"{folder} is a bundle for {target}, which needs a package that can't be imported here ({error}); "
            f"run: pip install {module.PACKAGE}"
        ) from None
    except UserError:
        raise
    except Exception as error:  # a stranger's graph: each runtime has errors of its own for what it can't make of one
        raise UserError(f"{name} can't load {folder} ({reason(error)}); {inside.AGAIN}") from error
    opened.choice = None
    return opened


def _check(folder: Path, graphs: dict[str, str], suffixes: tuple[str, ...]) -> None:
    """Raise UserError where a graph is no file of the kind that the target writes, or leads out of the folder.

    A runtime tells by the suffix which of its readers takes a file, and not all of them are for strangers' files.
    """
    if missing := [part for part in _PARTS if part not in graphs]:
        raise UserError(f"{folder} names no graph for {missing[0]}; {inside.AGAIN}")
    for graph in sorted(set(graphs.values())):
        if not graph.endswith(suffixes):
            raise UserError(f"{folder}: the graph {graph} is no {' or '.join(suffixes)}; {inside.AGAIN}")
        if folder.joinpath(*inside.checked(folder, graph)).is_dir():
            inside.subfolder(folder, graph)
        else:
            inside.place(folder, graph)
        if graph.endswith(".xml") and os.path.lexists(folder / (weights := f"{graph[:-4]}.bin")):
            inside.place(folder, weights)
        onnx_files.external(folder, graph)
