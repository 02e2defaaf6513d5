"""A runtime backend of three Core ML packages that are interpreted in torch, for machines without Core ML."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from masters_edge.export.mil.program import Program, State
from masters_edge.runtime.backends._static import StaticStudent


def open_backend(folder: Path, graphs: Mapping[str, str], threads: int, exact: bool) -> StaticStudent:
    """`exact` computes in float32, else in float16 as on the device; torch's threads are left as they are."""
    return StaticStudent(Interpreted({part: Program(folder / name, exact) for part, name in graphs.items()}))


class Interpreted:
    """Runs functions of the packages (`masters_edge.runtime.backends._static.Runner`)."""

    name = "coreml-interpreted"

    def __init__(self, programs: dict[str, Program]) -> None:
        self.programs = programs
        self._state: State = {}

    def shapes(self, part: str, function: str) -> dict[str, tuple[int, ...]]:
        return self.programs[part].shapes(function)

    def run(self, part: str, function: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        found = self.programs[part].run(function, inputs, self._state if part == "decoder" else None)
        return next(iter(found.values()))

    def forget(self) -> None:
        self._state = self.programs["decoder"].new_state("decode")
