"""Quantization-aware training: the last steps of a run see the weights as `export` rounds them.

Linear layers and embeddings become torchao's fake-quantized ones in place: the same parameters under the same names,
rounded in the forward pass, and the gradient passed straight through. So optimizer, checkpoints and the saved student
know nothing of it, and rounding the trained student to nearest gives the very integers it was trained with.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import TrainerCallback

from masters_edge.common.errors import UserError
from masters_edge.objective.chunked import Head
from masters_edge.recipe import Recipe
from masters_edge.recipe.schema import Qat

if TYPE_CHECKING:
    from masters_edge.quantization.by_part import QuantizationPlan
    from masters_edge.quantization.schemes import Scheme


def plan_of(qat: Qat) -> "QuantizationPlan":
    """What rounds which part.

    Raises:
        UserError: an unknown scheme or preset, or one without integers.
    """
    from masters_edge.quantization import by_part

    entry = qat.scheme
    found = by_part.plan(entry) if isinstance(entry, str) else by_part.plan(entry.scheme, entry.parts, entry.tied)
    if found.auto:
        raise UserError(
            "quantize.qat.scheme auto is chosen only when a student is exported; train for int4, int8 or a preset"
        )
    if all(scheme.bits is None for scheme in found.parts.values()):
        raise UserError(f"quantize.qat.scheme {found.name} has no integers to train for; use int4, int8 or a preset")
    return found


def check(recipe: Recipe, model_type: str) -> None:
    """Refuse what can't be trained so.

    Raises:
        UserError: adapters, a scheme that isn't known or rounds nothing, a family that can't be exported, no torchao.
    """
    if recipe.quantize.qat is None:
        return
    plan_of(recipe.quantize.qat)
    if recipe.train.lora:
        raise UserError(
            "quantize.qat rounds the weights themselves, but train.lora leaves them as they are and trains adapters; "
            "leave one of the two out"
        )
    try:
        import torchao  # noqa: F401
    except ImportError:
        raise UserError(
            "quantize.qat needs torchao, which is not installed; run: pip install 'masters-edge[onnx]'"
        ) from None
    from masters_edge.export import graphs

    graphs.family(model_type)


class FakeQuantization(TrainerCallback):
    """Switches the student's fake-quantized layers on from one optimizer step on, in a resumed run too."""

    def __init__(self, student: nn.Module, plan: "QuantizationPlan", first: int) -> None:
        """Swap the layers in place, switched off; `first` steps of the phase are trained with plain weights."""
        self.plan, self.first = plan, first
        self.roundings = [_swap(student, name, scheme) for name, scheme in _layers(student, plan).items()]

    @property
    def on(self) -> bool:
        return any(rounding.enabled for rounding in self.roundings)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for rounding in self.roundings:
            rounding.enabled = state.global_step >= self.first


class Rounding(nn.Module):
    """A weight as it is, or, where `enabled`, what the integers of `Scheme` mean."""

    def __init__(self, scheme: "Scheme") -> None:
        super().__init__()
        self.scheme, self.enabled = scheme, False

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return _Rounded.apply(weight, self.scheme) if self.enabled else weight


class _Rounded(torch.autograd.Function):
    """Round to nearest as export/quantize/rtn.py does, on any device; straight through backwards.

    torchao's own IntxFakeQuantizer agrees bit for bit, but for groups of tiny weights: the float16 reciprocal of their
    scale is infinite, and a group of zeros becomes NaN.
    """

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, scheme: "Scheme") -> torch.Tensor:
        from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine, quantize_affine

        assert scheme.bits is not None
        low, high = -(1 << (scheme.bits - 1)), (1 << (scheme.bits - 1)) - 1
        block, plain = (1, scheme.group(weight.shape[1])), weight.detach().float()
        scales, zeros = choose_qparams_affine(
            plain, MappingType.SYMMETRIC, block, torch.int8, low, high, None, torch.float16, torch.int8, keepdim=True
        )
        integers = quantize_affine(plain, block, scales, zeros, torch.int8, low, high)
        grouped = integers.view(*scales.shape, -1).float()
        step = scales.float()[..., None]
        by_division = (plain.view_as(grouped) / step).round().clamp(low, high).nan_to_num(0.0)
        tiny = step < 1 / torch.finfo(torch.float16).max
        return (torch.where(tiny, by_division, grouped) * step).view_as(weight).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> Any:
        return upstream[0], None


def head(student: Any, plain: Head) -> Head:
    """The output head as its layer would apply it; `plain` holds the layer's weight, whole, and its bias."""
    rounding = getattr(student.get_output_embeddings(), "weight_fake_quantizer", None)
    return plain if rounding is None else Head(rounding(plain.weight), plain.bias)


def _layers(student: Any, plan: "QuantizationPlan") -> dict[str, "Scheme"]:
    """Names of the layers that the plan gives integers, as `export` finds them."""
    from masters_edge.export.quantize.weights import layers_of
    from masters_edge.export.student import LoadedStudent

    loaded = LoadedStudent(Path(), student, None, {"model_type": student.config.model_type})
    return {
        name: plan.parts[part]
        for part, inside in layers_of(loaded).items()
        for name, layer in inside.items()
        if plan.parts[part].fits(layer.weight.shape[1])
    }


def _swap(student: nn.Module, name: str, scheme: "Scheme") -> Rounding:
    from torchao.quantization.qat import FakeQuantizedEmbedding, FakeQuantizedLinear

    layer = student.get_submodule(name)
    with torch.random.fork_rng():  # the new layer draws weights, which it then drops
        new = (
            FakeQuantizedLinear.from_linear(layer)
            if isinstance(layer, nn.Linear)
            else FakeQuantizedEmbedding.from_embedding(layer)
        )
    new.weight_fake_quantizer = Rounding(scheme)
    student.set_submodule(name, new)
    return new.weight_fake_quantizer
