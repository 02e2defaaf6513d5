"""Core ML through coremltools, on a Mac: vision encoder and embedding predict, the decoder's functions share state."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from masters_edge.common.errors import UserError
from masters_edge.runtime.backends._static import StaticStudent

AVAILABLE_FOR = ("coreml",)
PACKAGE = "coremltools"
SUFFIXES = (".mlpackage",)


def open_backend(folder: Path, graphs: Mapping[str, str], threads: int, exact: bool) -> StaticStudent:
    """Compile and load the packages. `exact` keeps to the CPU, else Core ML chooses among CPU, GPU and Neural Engine.

    Raises UserError where there is no Core ML or no coremltools.
    """
    if sys.platform != "darwin":
        raise UserError(
            "Core ML runs on macOS 15 and iOS 18 only; copy the bundle to a Mac, or use it in an app (docs/coreml.md)"
        )
    return StaticStudent(CoreMl(folder, graphs, exact))


def try_out() -> None:
    """Its import."""
    import coremltools  # noqa: F401


class CoreMl:
    """Predictions of the packages' functions (`_static.Runner`)."""

    name = "coremltools"

    def __init__(self, folder: Path, graphs: Mapping[str, str], exact: bool) -> None:
        import coremltools

        units = coremltools.ComputeUnit.CPU_ONLY if exact else coremltools.ComputeUnit.ALL
        self._models: dict[tuple[str, str], Any] = {}
        self._inputs: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {}
        for part, file in graphs.items():
            about = coremltools.models.MLModel(str(folder / file), skip_model_load=True).get_spec().description
            for function in about.functions or [about]:
                place = (part, getattr(function, "name", "") or "main")
                self._inputs[place] = {i.name: tuple(i.type.multiArrayType.shape) for i in function.input}
                name = None if place[1] == "main" else place[1]
                self._models[place] = coremltools.models.MLModel(
                    str(folder / file), compute_units=units, function_name=name
                )
        self.forget()

    def shapes(self, part: str, function: str) -> dict[str, tuple[int, ...]]:
        return self._inputs[part, function]

    def run(self, part: str, function: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        feed = {name: _narrow(array) for name, array in inputs.items()}
        state = {"state": self._state} if part == "decoder" else {}
        found = self._models[part, function].predict(feed, **state)
        return next(iter(found.values())).astype(np.float32)

    def forget(self) -> None:
        self._state = self._models["decoder", "decode"].make_state()


def _narrow(array: np.ndarray) -> np.ndarray:
    """Core ML knows no 64-bit integers."""
    return array.astype(np.int32) if array.dtype == np.int64 else array
