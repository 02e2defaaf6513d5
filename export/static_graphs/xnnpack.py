"""Layers as ExecuTorch's XNNPACK partitioner recognises them: integer weights with int8 activations, and GELU.

XNNPACK multiplies integer weights only with activations that it quantizes on the way, one scale a token (torchao's
Int8DynamicActivationIntxWeightConfig); there are no kernels for integer weights with float activations.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torchao.quantization.quant_primitives import (
    MappingType,
    choose_qparams_affine,
    dequantize_affine,
    quantize_affine,
)

from masters_edge.common.errors import UserError
from masters_edge.export.quantize.record import QuantizedTensor


def layer(module: nn.Module, record: QuantizedTensor | None) -> nn.Module | None:
    """See `weights.Layer`. Raises UserError for a quantized embedding, which ExecuTorch has no kernel for here."""
    if isinstance(module, nn.Embedding) and record is not None:
        raise UserError(
            f"{record.name} can't be integers in ExecuTorch; leave the embeddings float: --quant.embeddings fp32"
        )
    if record is not None:
        return DynamicLinear(module, record)
    return _gelu(module)


def exact_layer(module: nn.Module, record: QuantizedTensor | None) -> nn.Module | None:
    """The same without integers: weights as float32 numbers of the same meaning."""
    return _gelu(module)


class DynamicLinear(nn.Module):
    """An nn.Linear with a record's integers, its input quantized to int8 token by token."""

    integers: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor

    def __init__(self, linear: Any, record: QuantizedTensor) -> None:
        super().__init__()
        self.bias, self.bits, self.group_size = linear.bias, record.bits, record.group_size
        self.per_channel = record.group_size == record.integers.shape[1]
        scales = torch.from_numpy(record.scales).float()
        zeros = torch.from_numpy(record.zero_points)
        self.register_buffer("integers", torch.from_numpy(record.integers))
        self.register_buffer("scales", scales[:, 0].contiguous() if self.per_channel else scales)
        self.register_buffer("zero_points", zeros[:, 0].long() if self.per_channel else zeros)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.linear(self._rounded(hidden), self._weight(), self.bias)

    def _weight(self) -> torch.Tensor:
        low, high = -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        if self.per_channel:
            return torch.ops.quantized_decomposed.dequantize_per_channel(
                self.integers, self.scales, self.zero_points, 0, low, high, torch.int8
            )
        block = [1, self.group_size]
        return dequantize_affine(self.integers, block, self.scales, self.zero_points, torch.int8, low, high)

    def _rounded(self, hidden: torch.Tensor) -> torch.Tensor:
        block = [1] * (hidden.ndim - 1) + [hidden.shape[-1]]
        scale, zero = choose_qparams_affine(
            hidden,
            MappingType.ASYMMETRIC,
            block,
            torch.int8,
            quant_min=-128,
            quant_max=127,
            zero_point_dtype=torch.int8,
        )
        integers = quantize_affine(hidden, block, scale, zero, torch.int8, -128, 127)
        return dequantize_affine(integers, block, scale, zero, torch.int8, -128, 127)


class TanhGelu(nn.Module):
    """GELU's tanh approximation in plain operators; XNNPACK takes the exact GELU for it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def _gelu(module: nn.Module) -> nn.Module | None:
    name = type(module).__name__
    approximate = isinstance(module, nn.GELU) and module.approximate == "tanh"
    return TanhGelu() if approximate or name in ("GELUTanh", "PytorchGELUTanh") else None
