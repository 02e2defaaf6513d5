"""The parts of a model family as exported programs: one file per family, found by what it says of itself.

A family's module has `MODEL_TYPES` (values of `config.model_type`), `WEIGHTS` (part of a quantization plan -> prefix
of its parameters' names), `LAYERS` (graph -> where its layers lie in the student, so that a failing one can be named),
`parts(student) -> list[Part]` and `Reference` (what PyTorch says, for the parity gate). The programs are captured
once, with dynamic batch, sequence and past; every target lowers the same ones.
"""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn

from masters_edge.common import registry
from masters_edge.common.errors import UserError


@dataclass
class Part:
    """One graph to be.

    `example` are its inputs, `dynamic` says which of their dimensions vary (torch.export's `dynamic_shapes`),
    `dimensions` names the dimensions of inputs and outputs, for example ["batch_size", "sequence_length", 576].
    `prefixes` maps a submodule of `module` to its name in the student, so that weights keep the student's names.
    """

    name: str
    module: nn.Module
    example: tuple[Any, ...]
    dynamic: tuple[Any, ...]
    inputs: list[str]
    outputs: list[str]
    dimensions: dict[str, list[int | str]]
    prefixes: dict[str, str]

    def capture(self) -> torch.export.ExportedProgram:
        """The part as an exported program."""
        with torch.no_grad():
            return torch.export.export(
                self.module.eval(),
                self.example,
                dynamic_shapes=self.dynamic,
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )

    def student_name(self, name: str) -> str:
        """A parameter's name in the student, given its name in this part."""
        head, dot, rest = name.partition(".")
        return f"{self.prefixes.get(head, head)}{dot}{rest}"


def family(model_type: str) -> ModuleType:
    """The module for a model type; raises UserError that names the families that work."""
    package = sys.modules[__name__]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in registry.names(package)]
    for module in modules:
        if model_type in module.MODEL_TYPES:
            return module
    known = ", ".join(sorted(t for module in modules for t in module.MODEL_TYPES))
    raise UserError(f"students of model_type {model_type!r} can't be exported yet; these can: {known}")


def part_of(name: str, prefixes: Mapping[str, str]) -> str | None:
    """The part whose prefix is the longest that `name` starts with; None for a parameter of no part."""
    fitting = [part for part, prefix in prefixes.items() if name.startswith(prefix)]
    return max(fitting, key=lambda part: len(prefixes[part]), default=None)
