"""Integers chosen better than by rounding each weight to its nearest: HQQ, which needs no data, and GPTQ, which does.

In: layers with their schemes, and for GPTQ (image, question) pairs that the student answers itself. Out: the same
records as `rtn`: symmetric integers, float16 scales.

HQQ is torchao's scale-only one: scale and integers are fitted to the weights in turn, by least squares. GPTQ is
Frantar et al. 2022 (arXiv 2210.17323); torchao 0.18 has it for CUDA only.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torchao.quantization import quantize_
from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine
from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm

from masters_edge.common.errors import UserError
from masters_edge.export import graphs
from masters_edge.export.quantize import rtn
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.quantize.weights import part_of
from masters_edge.export.student import LoadedStudent
from masters_edge.quantization.schemes import Scheme

Layers = Mapping[str, tuple[nn.Linear | nn.Embedding, Scheme]]

ANSWER_TOKENS = 32  # longest answer that the student gives while GPTQ watches
DAMPING = 0.01  # of the Hessian's mean diagonal, added to it (section 3.3 of the paper)
BLOCK = 128  # columns after which the others are corrected (the paper's lazy batch updates)


def hqq(student: LoadedStudent, layers: Layers, samples: Sequence[Any] | None) -> dict[str, QuantizedTensor]:
    """Records of the layers' weights by parameter name; `student` and `samples` are for GPTQ."""
    return {name: _hqq(name, layer.weight, scheme) for name, (layer, scheme) in layers.items()}


def _hqq(name: str, weight: torch.Tensor, scheme: Scheme) -> QuantizedTensor:
    holder = nn.Linear(1, 1, bias=False, device="meta")
    holder.weight = nn.Parameter(weight.detach().float(), requires_grad=False)
    algorithm = IntxChooseQParamsAlgorithm.HQQ_SCALE_ONLY
    config = dataclasses.replace(scheme.torchao_config(), intx_choose_qparams_algorithm=algorithm)
    quantize_(holder, config, filter_fn=lambda module, _: module is holder)
    return rtn.read_tensor(name, holder.weight, scheme, weight)


def gptq(student: LoadedStudent, layers: Layers, samples: Sequence[Any] | None) -> dict[str, QuantizedTensor]:
    """Records of the layers' weights by parameter name, chosen so that the layers' outputs on `samples` stay near.

    Parts are taken in the order data flows, and a part watches its inputs with the parts before it rounded already:
    the layers' weights are replaced in place. Embeddings look rows up, so nothing can make up for a rounded value
    there: they are rounded to nearest, as are layers that no sample reaches.

    Raises:
        UserError: no samples.
    """
    if not samples:
        raise UserError("gptq needs samples, (image, question) pairs, to look at; give some, or use hqq or rtn")
    found: dict[str, QuantizedTensor] = {}
    for inside in _by_part(student, layers):
        hessians = _hessians(student, {name: layer for name, (layer, _) in inside.items()}, samples)
        for name, (layer, scheme) in inside.items():
            if name in hessians:
                found[name] = gptq_tensor(name, layer.weight, scheme, hessians.pop(name))
            else:
                found[name] = rtn.round_to_nearest(name, layer.weight, scheme)
            layer.weight.data = torch.from_numpy(found[name].dequantize())
    return {name: found[name] for name in layers}


def _by_part(student: LoadedStudent, layers: Layers) -> Iterator[Layers]:
    """The layers of each part, in the order of the family's WEIGHTS, which is that of the data."""
    prefixes = graphs.family(student.model_type).WEIGHTS
    for part in prefixes:
        inside = {name: found for name, found in layers.items() if part_of(name, prefixes) == part}
        if inside:
            yield inside


def _hessians(
    student: LoadedStudent, layers: Mapping[str, nn.Module], samples: Sequence[Any]
) -> dict[str, torch.Tensor]:
    """2 X X^T of each linear layer's inputs X, float32 [in, in], seen while the student answers (section 3.1)."""
    found: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
            found[name] = found.get(name, 0) + 2 * rows.T @ rows

        return hook

    reference = graphs.family(student.model_type).Reference
    linear = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}
    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in linear.items()]
    try:
        for image, question in samples if linear else ():
            reference(student, image, question, ANSWER_TOKENS)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def gptq_tensor(name: str, weight: torch.Tensor, scheme: Scheme, hessian: torch.Tensor) -> QuantizedTensor:
    """Algorithm 1 of the paper for one weight [out, in]; `hessian` is 2 X X^T of its inputs, [in, in].

    Scales are torchao's for round-to-nearest. Columns go in order of falling diagonal (the authors' `act-order`).
    """
    assert scheme.bits is not None
    low, high = -(1 << (scheme.bits - 1)), (1 << (scheme.bits - 1)) - 1
    left = weight.detach().double().clone()
    rows, columns = left.shape
    group = scheme.group(columns)
    scales, _ = choose_qparams_affine(
        weight.detach().float(),
        MappingType.SYMMETRIC,
        (1, group),
        torch.int8,
        low,
        high,
        scale_dtype=torch.float16,
        keepdim=True,
    )
    hessian = hessian.double()
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    left, hessian = left[:, order], hessian[order][:, order]
    step = scales.double().repeat_interleave(group, 1)[:, order]
    step[step == 0] = 1  # zeros stay zeros
    hessian = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    # Rows of the inverse's upper Cholesky factor are what Eq. 3 needs of each column's inverse Hessian (section 3.3).
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    integers = torch.empty_like(left)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        errors = torch.empty(rows, end - start, dtype=torch.float64)
        for column in range(start, end):
            integers[:, column] = (left[:, column] / step[:, column]).round().clamp(low, high)
            error = (left[:, column] - integers[:, column] * step[:, column]) / inverse[column, column]
            left[:, column:end] -= error[:, None] * inverse[column, column:end]  # Eq. 2, within the block
            errors[:, column - start] = error
        left[:, end:] -= errors @ inverse[start:end, end:]  # Eq. 4, all that is behind it
    restored = torch.empty_like(integers)
    restored[:, order] = integers
    return QuantizedTensor(
        name,
        integers=restored.to(torch.int8).numpy(),
        scales=scales.numpy(),
        zero_points=np.zeros(scales.shape, np.int8),
        bits=scheme.bits,
        group_size=group,
    )
