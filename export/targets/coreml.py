"""Core ML packages for iOS 18 and macOS 15: vision encoder, embedding, and a decoder that keeps its KV cache as state.

Static programs become ML programs, a part's functions ("prefill", "decode") share the weights in one package. Compute
is float16, unless the whole plan is float32. Core ML runs on Apple's systems only, so the saved packages are read back
and interpreted here (`export/mil`): `open_backend` is what proves them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from masters_edge.common.errors import UserError
from masters_edge.export import static_graphs
from masters_edge.export.mil.backend import open_backend
from masters_edge.export.mil.convert import read_integers, write_part
from masters_edge.export.settings import write_settings
from masters_edge.export.static_graphs import unsupported
from masters_edge.export.targets import Lowering

__all__ = ["open_backend", "unsupported"]

BACKEND = "coremltools"
VERSIONS = ("coremltools",)
SCHEMES = ("fp32", "fp16", "int8", "int4", "int4-g64", "int4-g128")
NOTES = (
    "Apple's Core ML was not run: the saved packages were read back and interpreted in torch; docs/coreml.md has a "
    "check for a Mac",
)


def write(lowering: Lowering) -> dict[str, str]:
    """One package for each part, and the settings around them. Returns part -> package.

    Where compute is float16, what has no integers is float16 in the package, biases and norms too: the student takes on
    the same numbers, so that PyTorch is asked about what ships.
    """
    if _half(lowering):
        _round(lowering)
    found = {}
    for index, part in enumerate(static_graphs.parts(lowering.student, torch.int32)):
        found[part.name] = f"{part.name}.mlpackage"
        write_part(part, lowering.weights.tensors, _half(lowering), lowering.folder / found[part.name])
        lowering.on_part(index + 1)
    write_settings(lowering.student, lowering.folder)
    return found


def ship(lowering: Lowering, graphs: dict[str, str]) -> bool:
    """The files stay as they are; a device rounds to float16 what the gate kept in float32: all, or the KV cache."""
    return True


def integers(folder: Path, graphs: Mapping[str, str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Every quantized weight of the packages: parameter name, int8 [out, in], float32 scales [out, groups]."""
    for package in graphs.values():
        yield from read_integers(folder / package)


def _round(lowering: Lowering) -> None:
    """Round the student's parameters to float16, but those with integers; raises UserError where one is too large."""
    parameters = dict(lowering.student.model.named_parameters(remove_duplicate=False))
    quantized = {id(parameters[name]) for name in lowering.weights.tensors if name in parameters}
    for name, parameter in parameters.items():
        if id(parameter) not in quantized:
            parameter.data = parameter.detach().half().float()
            if not torch.isfinite(parameter).all():
                raise UserError(
                    f"{name} holds numbers that float16 doesn't, and Core ML computes in it; use --quant fp32"
                )
    lowering.weights.notes.append("all that has no integers is float16 in the packages, norms and biases too")


def _half(lowering: Lowering) -> bool:
    return any(scheme.name != "fp32" for scheme in lowering.weights.plan.parts.values())
