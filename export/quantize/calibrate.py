"""Integers chosen better than by rounding each weight to its nearest: HQQ, which needs no data, and GPTQ, which does.

In: layers with their schemes, and for GPTQ (image, question) pairs that the student answers itself. Out: the same
records as `rtn`: symmetric integers, float16 scales.

HQQ is torchao's scale-only one: scale and integers are fitted to the weights in turn, by least squares. GPTQ is
Frantar et al. 2022 (arXiv 2210.17323); torchao 0.18 has it for CUDA only.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torchao.quantization import quantize_
from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm

from masters_edge.common.errors import UserError
from masters_edge.export import graphs
from masters_edge.export.graphs import part_of
from masters_edge.export.quantize import rtn, scales
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.student import LoadedStudent
from masters_edge.quantization.schemes import Scheme

Layers = Mapping[str, tuple[nn.Linear | nn.Embedding, Scheme]]

ANSWER_TOKENS = 32  # longest answer that the student gives while GPTQ watches
DAMPING = 0.01  # of the Hessian's mean diagonal, added to it (section 3.3 of the paper)
BLOCK = 64  # columns after which the others are corrected (the paper's lazy batch updates)
ROWS = 4096  # worked on at once, in float64


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
        linear = {name: layer for name, (layer, _) in inside.items() if isinstance(layer, nn.Linear)}
        seen = hessians(linear, partial(_answer, student, samples)) if linear else {}
        for name, (layer, scheme) in inside.items():
            if name in seen:
                found[name] = gptq_tensor(name, layer.weight, scheme, seen.pop(name))
            else:
                found[name] = rtn.round_to_nearest(name, layer.weight, scheme)
            layer.weight.data = torch.from_numpy(found[name].dequantize())
    return {name: found[name] for name in layers}


def _answer(student: LoadedStudent, samples: Sequence[Any]) -> None:
    """The student answers the samples, for whoever watches."""
    reference = graphs.family(student.model_type).Reference
    for image, question, *_ in samples:
        reference(student, image, question, ANSWER_TOKENS)


def _by_part(student: LoadedStudent, layers: Layers) -> Iterator[Layers]:
    """The layers of each part, in the order of the family's WEIGHTS, which is that of the data."""
    prefixes = graphs.family(student.model_type).WEIGHTS
    for part in prefixes:
        inside = {name: found for name, found in layers.items() if part_of(name, prefixes) == part}
        if inside:
            yield inside


def hessians(layers: Mapping[str, nn.Module], run: Callable[[], None]) -> dict[str, torch.Tensor]:
    """2 X X^T of each linear layer's inputs X, float32 [in, in], seen while `run` runs (section 3.1 of the paper).

    Layers that are given one and the same tensor (queries, keys and values) share one matrix.
    """
    found: dict[str, torch.Tensor] = {}
    twins: dict[str, str] = {}  # layer -> the one before it whose inputs it is given
    last: tuple[str, torch.Tensor] | None = None

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            nonlocal last
            if name not in found and last is not None and last[1] is inputs[0]:
                twins[name] = last[0]
            if name in twins:
                found[name] = found[twins[name]]
                return
            last = name, inputs[0]
            rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
            found[name] = found.get(name, torch.zeros(())) + 2 * rows.T @ rows

        return hook

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def gptq_tensor(name: str, weight: torch.Tensor, scheme: Scheme, hessian: torch.Tensor) -> QuantizedTensor:
    """Algorithm 1 of the paper for one weight [out, in]; `hessian` is 2 X X^T of its inputs, [in, in].

    Scales are those of least error, inputs weighed by the Hessian's diagonal. Columns go in order of falling diagonal
    (the authors' `act-order`). Rows go by the thousand: they know nothing of each other.
    """
    assert scheme.bits is not None
    group = scheme.group(weight.shape[1])
    chosen = scales.least_error(weight, scheme.bits, group, hessian.diagonal())
    hessian = hessian.double()
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    hessian = hessian[order][:, order]
    hessian = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(len(order), dtype=torch.float64)
    # Rows of the inverse's upper Cholesky factor are what Eq. 3 needs of each column's inverse Hessian (section 3.3).
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    integers = torch.empty(weight.shape, dtype=torch.int8)
    for rows, step in zip(torch.arange(len(weight)).split(ROWS), chosen.split(ROWS)):
        left = weight[rows].detach().double().T[order].contiguous()
        wide = step.double().T.repeat_interleave(group, 0)[order]
        integers[rows[:, None], order] = _corrected(left, wide, inverse, scheme.bits).T
    return QuantizedTensor(
        name,
        integers=integers.numpy(),
        scales=chosen.numpy(),
        zero_points=np.zeros(chosen.shape, np.int8),
        bits=scheme.bits,
        group_size=group,
    )


def _corrected(left: torch.Tensor, step: torch.Tensor, inverse: torch.Tensor, bits: int) -> torch.Tensor:
    """int8 [in, out]: each input feature's weights rounded, their error spread over those behind it; overwrites `left`.

    All lie with the input features first, so that a feature's weights are neighbours in memory.
    """
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    integers = torch.empty_like(left)
    for start in range(0, len(left), BLOCK):
        end = min(start + BLOCK, len(left))
        errors = torch.empty_like(left[start:end])
        for column in range(start, end):
            integers[column] = (left[column] / step[column]).round_().clamp_(low, high)
            torch.div(
                left[column] - integers[column] * step[column], inverse[column, column], out=errors[column - start]
            )
            left[column:end].addr_(inverse[column, column:end], errors[column - start], alpha=-1)  # Eq. 2, in the block
        left[end:].addmm_(inverse[start:end, end:].T, errors, alpha=-1)  # Eq. 4, all that is behind it
    return integers.to(torch.int8)
