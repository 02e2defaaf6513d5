"""A student's weights after quantization: the records, which parameters are float16, and words for the manifest.

`quantize` puts what the integers mean back into the model as float32, so that PyTorch and every exported graph compute
with the very same numbers; `save` and `load` carry the rest to the targets in one safetensors file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from masters_edge.common.errors import UserError
from masters_edge.export import graphs
from masters_edge.export.graphs import part_of
from masters_edge.export.quantize import auto, methods, record
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.student import LoadedStudent
from masters_edge.quantization.by_part import PARTS, QuantizationPlan
from masters_edge.quantization.schemes import SCHEMES, Scheme

Layer = nn.Linear | nn.Embedding  # what can have integers: both keep a weight [out, in]


@dataclass(frozen=True)
class Weights:
    """What a target lowers.

    `tensors`: records by parameter name. `float16`: names of parameters to store as float16; their values in the
    model are float32 numbers that float16 holds exactly. `activations`: bits for each part's activations, or None.
    `tied`: "shared" where embedding and head are one weight, "split" where they were parted, "never" where the student
    has two. `parts`, `kept_float32` and `notes` are words for the manifest.
    """

    plan: QuantizationPlan
    tensors: dict[str, QuantizedTensor]
    float16: frozenset[str]
    activations: dict[str, int | None]
    tied: str
    parts: dict[str, str]
    method: str = "rtn"
    kept_float32: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def quantize(
    student: LoadedStudent,
    plan: QuantizationPlan,
    method: str = "rtn",
    samples: Sequence[Any] | None = None,
    chosen: Path | None = None,
) -> Weights:
    """Quantize the student in place, part by part as `plan` says, with integers chosen by `method`.

    Linear layers of every part become integers, and the token embedding where its scheme has some. A float16 part
    stores its matrices and tables (two or more dimensions) as float16; norms and biases stay float32, as they are small
    and their values matter most. A layer that whole groups don't fill stays float32 and is named in `kept_float32`.
    `samples` are (image, question) pairs for methods that need them, with an answer, or None for the student's own,
    behind them where the plan is `auto`. `chosen` is a file that keeps the integers: where it is there they are read,
    so that all targets get the same. Raises UserError for an unknown method.
    """
    choose = methods.method(method)
    layers = layers_of(student)
    tied, notes = _untie(student, plan, layers)
    wanted = {
        f"{name}.weight": (layer, plan.parts[part])
        for part, inside in layers.items()
        for name, layer in inside.items()
        if plan.parts[part].bits is not None
    }
    fit = {name: found for name, found in wanted.items() if found[1].fits(found[0].weight.shape[1])}
    shared = {} if tied != "shared" else _shared(layers, fit)
    first = {name: found for name, found in fit.items() if name not in shared}
    if chosen is not None and chosen.exists():
        found, about = record.read(chosen)
        tensors, spent = {tensor.name: tensor for tensor in found}, json.loads(about["spent"])
    else:
        tensors, spent = {}, []
        if plan.auto and first:
            tensors, spent = auto.quantize(student, plan, first, samples)
        elif first:
            tensors = choose(student, first, samples)
        if chosen is not None:
            record.save(chosen, tensors.values(), {"spent": json.dumps(spent)})
    for name, twin in shared.items():
        tensors[name] = QuantizedTensor(**{**vars(tensors[twin]), "name": name})
    _put_back(fit, tensors)
    halved = _halve(student, plan)
    kept = [
        f"{name.removesuffix('.weight')}: {layer.weight.shape[1]} input features are no multiple of {scheme.group_size}"
        for name, (layer, scheme) in wanted.items()
        if name not in fit
    ]
    return Weights(
        plan=plan,
        tensors={name: tensors[name] for name in fit},
        float16=halved,
        activations={part: scheme.activations for part, scheme in plan.parts.items()},
        tied=tied,
        parts=_words(plan, layers, tensors),
        method=method,
        kept_float32=kept,
        notes=[*notes, *spent],
    )


def layers_of(student: LoadedStudent) -> dict[str, dict[str, Layer]]:
    """The layers that can have integers, by part: linear layers, and for `embeddings` the token embedding."""
    found: dict[str, dict[str, Layer]] = {part: {} for part in PARTS}
    prefixes = graphs.family(student.model_type).WEIGHTS
    for name, module in student.model.named_modules():
        part = part_of(f"{name}.", prefixes)
        kind = nn.Embedding if part == "embeddings" else nn.Linear
        if part is not None and isinstance(module, kind):
            found[part][name] = module
    return found


def save(path: Path, weights: Weights) -> None:
    """Everything in one safetensors file."""
    about = {
        "name": weights.plan.name,
        "schemes": {part: scheme.name for part, scheme in weights.plan.parts.items()},
        "plan_tied": weights.plan.tied,
        "budget": weights.plan.budget if weights.plan.auto else False,
        "float16": sorted(weights.float16),
        "tied": weights.tied,
        "parts": weights.parts,
        "method": weights.method,
        "kept_float32": weights.kept_float32,
        "notes": weights.notes,
    }
    record.save(path, weights.tensors.values(), {"weights": json.dumps(about)})


def load(path: Path) -> Weights:
    """What `save` wrote; raises UserError for another schema version or a broken file."""
    tensors, metadata = record.read(path)
    try:
        about = json.loads(metadata["weights"])
        plan = QuantizationPlan(
            about["name"],
            {part: SCHEMES[name] for part, name in about["schemes"].items()},
            about["plan_tied"],
            auto=about["budget"] is not False,
            budget=about["budget"] or None,
        )
        return Weights(
            plan=plan,
            tensors={tensor.name: tensor for tensor in tensors},
            float16=frozenset(about["float16"]),
            activations={part: scheme.activations for part, scheme in plan.parts.items()},
            **{name: about[name] for name in ("tied", "parts", "method", "kept_float32", "notes")},
        )
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}); quantize the student again") from None


def _untie(
    student: LoadedStudent, plan: QuantizationPlan, layers: dict[str, dict[str, Layer]]
) -> tuple[str, list[str]]:
    """Part a tied head from the embedding where the plan gives them different numbers. Returns the state, and notes."""
    embeddings = {id(layer.weight): layer for layer in layers["embeddings"].values()}
    tied = {name: layer for name, layer in layers["head"].items() if id(layer.weight) in embeddings}
    if not tied:
        return "never", []
    embedding, head = plan.parts["embeddings"], plan.parts["head"]
    if plan.tied == "shared":
        return "shared", []
    notes = []
    for name, layer in tied.items():
        layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        notes.append(
            f"{name} shared its weight with the token embedding; here they are two: the head is "
            f"{head.name}, the embedding {embedding.name}"
        )
    return "split", notes


def _shared(layers: dict[str, dict[str, Layer]], fit: Mapping[str, Any]) -> dict[str, str]:
    """Quantized embedding -> the head it shares its weight with: the head's record serves both."""
    heads = {id(layer.weight): f"{name}.weight" for name, layer in layers["head"].items()}
    return {
        f"{name}.weight": heads[id(layer.weight)]
        for name, layer in layers["embeddings"].items()
        if f"{name}.weight" in fit and id(layer.weight) in heads
    }


def _put_back(fit: Mapping[str, tuple[Layer, Scheme]], tensors: Mapping[str, QuantizedTensor]) -> None:
    """Weights get the integers' exact meaning, in their own memory; one that two layers share stays one."""
    done: set[int] = set()
    for name, (layer, _) in fit.items():
        if id(layer.weight) not in done:
            layer.weight.data.copy_(torch.from_numpy(tensors[name].dequantize()))
            done.add(id(layer.weight))


def _halve(student: LoadedStudent, plan: QuantizationPlan) -> frozenset[str]:
    """Round the matrices and tables of float16 parts; returns their names."""
    prefixes = graphs.family(student.model_type).WEIGHTS
    halved = set()
    for name, parameter in student.model.named_parameters(remove_duplicate=False):
        part = part_of(name, prefixes)
        if part is not None and plan.parts[part].float16 and parameter.ndim > 1:
            rounded = parameter.detach().half().float()
            if not torch.isfinite(rounded).all():
                raise UserError(f"{name} holds numbers that float16 doesn't; give its part ({part}) another scheme")
            parameter.data = rounded
            halved.add(name)
    return frozenset(halved)


def _words(
    plan: QuantizationPlan, layers: dict[str, dict[str, Layer]], tensors: Mapping[str, QuantizedTensor]
) -> dict[str, str]:
    """Each part's scheme in words, and how many layers have more bits; float32 where none could have integers."""
    words = {}
    for part, scheme in plan.parts.items():
        bits = [tensors[f"{name}.weight"].bits for name in layers[part] if f"{name}.weight" in tensors]
        words[part] = scheme.words if scheme.bits is None or bits else "float32"
        if more := sum(own != scheme.bits for own in bits):
            words[part] += f"; {more} of {len(bits)} layers int8, per output channel, float16 scales"
    return words
