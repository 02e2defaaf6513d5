"""Runtimes a student can run on: one file per backend, found by its name. A new backend touches no other file.

A backend's module says with `AVAILABLE_FOR` which bundle targets it runs and makes, with
`open_backend(folder, graphs, threads, exact)`, an object that follows `Backend`. `exact` asks for the
most exact arithmetic the runtime has, False for the fast one that ships.
"""

import importlib
import importlib.util
import pkgutil
from pathlib import Path
from typing import Protocol

import numpy as np

from masters_edge.errors import UserError


class Backend(Protocol):
    """Runs the three parts of a student. It holds the KV cache of one answer at a time (batch of one)."""

    name: str

    def vision(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """The vision part's inputs by name -> features float32 [image tokens, width]."""

    def embed(self, input_ids: np.ndarray) -> np.ndarray:
        """int64 [1, tokens] -> float32 [1, tokens, width]; a family may carry more than its hidden size."""

    def start(self) -> None:
        """Forget the KV cache."""

    def forward(self, inputs_embeds: np.ndarray, position_ids: np.ndarray) -> np.ndarray:
        """The next tokens' float32 [1, tokens, width], int64 [1, tokens] or [3, 1, tokens] -> logits float32
        [1, tokens, vocab]; the cache grows."""


def names() -> list[str]:
    """Every backend this version knows, installed or not."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def open_backend(
    name: str, target: str, folder: Path, graphs: dict[str, str], threads: int, exact: bool = False
) -> Backend:
    """Load the bundle's graphs. `auto` takes the first backend that is made for the target.

    Raises UserError for an unknown backend, or one that can't run this target.
    """
    known = names()
    if name != "auto" and name not in known:
        raise UserError(f"there is no backend {name!r}; use one of: auto, {', '.join(known)}")
    for candidate in known if name == "auto" else [name]:
        module = importlib.import_module(f"{__name__}.{candidate}")
        if target in module.AVAILABLE_FOR:
            return module.open_backend(folder, graphs, threads, exact)
    raise UserError(f"a bundle for {target} can't run on backend {name!r}; use one of: auto, {', '.join(known)}")
