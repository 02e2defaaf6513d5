"""One static graph to be: a plain module, its functions with example inputs, and the student's names of its weights."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.static_graphs.weights import Layer, quantized, replaced


@dataclass
class StaticPart:
    """`functions` maps a function's name to its inputs, by name and of fixed shape: one for most parts ("main"), two
    for the decoder ("prefill", "decode"). `model` is the student's, whose layers `module` uses."""

    name: str
    module: nn.Module
    functions: dict[str, dict[str, torch.Tensor]]
    output: str
    model: nn.Module

    @functools.cached_property
    def prefixes(self) -> dict[str, str]:
        """Submodule of `module` -> its name in the student."""
        known = {id(module): name for name, module in self.model.named_modules()}
        return {name: known[id(child)] for name, child in self.module.named_children()}

    def student_name(self, name: str) -> str:
        """A parameter's or module's name in the student, given its name in this part."""
        head, dot, rest = name.partition(".")
        return f"{self.prefixes.get(head, head)}{dot}{rest}"

    def records(self, records: Mapping[str, QuantizedTensor]) -> dict[str, QuantizedTensor]:
        """Those of the student's records that lie in this part, by the module's name in the part."""
        modules = (name for name, _ in self.module.named_modules() if name)
        names = {name: f"{self.student_name(name)}.weight" for name in modules}
        return {name: records[found] for name, found in names.items() if found in records}

    def capture(self, function: str, records: Mapping[str, QuantizedTensor], layer: Layer = quantized) -> Any:
        """The exported program of one function, its layers replaced as `layer(module, record)` says."""
        mine = self.records(records)
        with torch.no_grad(), replaced(self.module, lambda name, module: layer(module, mine.get(name))):
            return torch.export.export(self.module.eval(), (), kwargs=self.functions[function], strict=False)
