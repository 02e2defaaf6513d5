"""Round to nearest: torchao's own integers and scales, no data needed. The shape every other method has, too."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torchao.quantization import quantize_

from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.student import LoadedStudent
from masters_edge.quantization.schemes import Scheme

# torchao multiplies by the float16 reciprocal of a float16 scale, which is infinite up to this one.
SMALLEST_SCALE = np.float16(2**-16)


def rtn(
    student: LoadedStudent, layers: Mapping[str, tuple[nn.Linear | nn.Embedding, Scheme]], samples: Sequence[Any] | None
) -> dict[str, QuantizedTensor]:
    """Records of the layers' weights by parameter name. `student` and `samples` are for methods that look at data."""
    return {name: round_to_nearest(name, layer.weight, scheme) for name, (layer, scheme) in layers.items()}


def round_to_nearest(name: str, weight: torch.Tensor, scheme: Scheme) -> QuantizedTensor:
    """The record torchao makes of a float32 weight [out, in]; the weight itself is left alone."""
    holder = nn.Linear(1, 1, bias=False, device="meta")
    holder.weight = nn.Parameter(weight.detach().float(), requires_grad=False)
    quantize_(holder, scheme.torchao_config(), filter_fn=lambda module, _: module is holder)
    return read_tensor(name, holder.weight, scheme, weight)


def read_tensor(name: str, quantized: Any, scheme: Scheme, weight: torch.Tensor) -> QuantizedTensor:
    """The integers, scales and zero points inside torchao's tensor subclass, made of the float32 `weight`."""
    assert scheme.bits is not None
    integers, scales = quantized.qdata.to(torch.int8).numpy(), quantized.scale.to(torch.float16).numpy()
    group = scheme.group(integers.shape[1])
    integers, scales = _mend(integers, scales, weight.detach().float().numpy(), scheme.bits)
    return QuantizedTensor(
        name,
        integers=integers,
        scales=scales,
        zero_points=np.zeros(scales.shape, np.int8) if quantized.zero_point is None else quantized.zero_point.numpy(),
        bits=scheme.bits,
        group_size=group,
    )


def _mend(integers: np.ndarray, scales: np.ndarray, weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups of (nearly) zero weights get the smallest scale; torchao would send them to the ends of the range."""
    tiny = scales <= SMALLEST_SCALE
    if not tiny.any():
        return integers, scales
    grouped = integers.reshape(*scales.shape, -1).copy()
    steps = weight.reshape(grouped.shape)[tiny] / np.float32(SMALLEST_SCALE)
    grouped[tiny] = np.clip(np.rint(steps), -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return grouped.reshape(integers.shape), np.where(tiny, SMALLEST_SCALE, scales)
