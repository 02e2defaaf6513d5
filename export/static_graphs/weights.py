"""Quantized weights inside a program: the record's integers as buffers, and the operator that says what they mean.

torchao's `dequantize_affine` is what Core ML's and ExecuTorch's converters understand. The student's layers are put
back afterwards: PyTorch's reference goes on with the float32 meaning of the same integers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from masters_edge.export.quantize.record import QuantizedTensor

# What stands in a program in place of a layer, given its record if it has one; None: the layer itself.
Layer = Callable[[nn.Module, QuantizedTensor | None], nn.Module | None]


class _Quantized(nn.Module):
    """Holds `integers` int8 [out, in] and `scales` float32 [out, in / group_size]."""

    integers: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None

    def __init__(self, record: QuantizedTensor) -> None:
        super().__init__()
        self.group_size, self.bits = record.group_size, record.bits
        self.register_buffer("integers", torch.from_numpy(record.integers))
        self.register_buffer("scales", torch.from_numpy(record.scales).float())
        zeros = torch.from_numpy(record.zero_points) if record.zero_points.any() else None
        self.register_buffer("zero_points", zeros)

    def weight(self) -> torch.Tensor:
        """float32 [out, in]"""
        low, high = -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return torch.ops.torchao.dequantize_affine(
            self.integers, [1, self.group_size], self.scales, self.zero_points, torch.int8, low, high
        )


class QuantizedLinear(_Quantized):
    """An nn.Linear whose weight is a record."""

    def __init__(self, layer: nn.Linear, record: QuantizedTensor) -> None:
        super().__init__(record)
        self.bias = layer.bias

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.linear(hidden, self.weight(), self.bias)


class QuantizedEmbedding(_Quantized):
    """An nn.Embedding whose weight is a record."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return functional.embedding(input_ids, self.weight())


@contextmanager
def replaced(module: nn.Module, make: Callable[[str, nn.Module], nn.Module | None]) -> Iterator[None]:
    """Within the block, each submodule for which `make(name, submodule)` gives one has that one in its place."""
    found = [(name, child) for name, child in module.named_modules() if name]
    swapped: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for name, child in found:
            new = make(name, child)
            if new is not None:
                parent, _, last = name.rpartition(".")
                holder = module.get_submodule(parent)
                swapped.append((holder, last, child))
                setattr(holder, last, new)
        yield
    finally:
        for holder, last, child in swapped:
            setattr(holder, last, child)


def quantized(module: nn.Module, record: QuantizedTensor | None) -> nn.Module | None:
    """The layer with the record in it; None without a record."""
    if record is None:
        return None
    if isinstance(module, nn.Linear):
        return QuantizedLinear(module, record)
    if isinstance(module, nn.Embedding):
        return QuantizedEmbedding(record)
    raise RuntimeError(f"{record.name} is quantized, but it belongs to a {type(module).__name__}")
