"""Integers under a budget: int4 everywhere, int8 where the answers owe most to a layer, both by GPTQ.

In: layers with the scheme each starts from, and texts that the student is run on (`curvature.Text`). Most texts make
GPTQ's Hessians, the others say what the rounded layers cost, so that no layer is judged on what it was fitted to.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from masters_edge.common.errors import UserError
from masters_edge.export import graphs
from masters_edge.export.gate import reference
from masters_edge.export.quantize import calibrate, curvature, rtn, spend
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.student import LoadedStudent
from masters_edge.quantization import by_part
from masters_edge.quantization.by_part import PARTS, QuantizationPlan
from masters_edge.quantization.schemes import SCHEMES, Scheme

Layers = Mapping[str, tuple[nn.Linear | nn.Embedding, Scheme]]

USUAL = 1.025  # of what the schemes take as they are: the budget where none is given
SMALL = 4  # bits of a layer that may become int8
JUDGE = 4  # each so many-th text says what layers cost, the others are GPTQ's


@dataclass(frozen=True)
class Choices:
    """By parameter name: the record with the scheme that a layer starts from; for layers of four bits the int8 record
    that could take its place; and the nats a token that four bits cost there."""

    start: dict[str, QuantizedTensor]
    larger: dict[str, QuantizedTensor]
    costs: dict[str, float]

    def within(self, budget: float, other: float = 0) -> dict[str, QuantizedTensor]:
        """Records that take at most `budget` bytes, `other` bytes of what is float included.

        Raises:
            UserError: the budget is below what the schemes take as they are.
        """
        need = other + sum(map(spend.size, self.start.values()))
        if budget < need:
            raise UserError(
                f"the budget, {budget / 1e6:.3f} MB, is below what the weights take at the least; give at least "
                f"{math.ceil(need / 1e3) / 1e3:.3f}MB, or let more parts be int4"
            )
        upgrades = {
            name: spend.Upgrade(self.costs[name], spend.size(record) - spend.size(self.start[name]))
            for name, record in self.larger.items()
        }
        bought = spend.choose(upgrades, budget - need)
        return self.start | {name: self.larger[name] for name in bought}


def choices(layers: Layers, texts: Sequence[curvature.Text]) -> Choices:
    """What there is to choose from; the layers' weights are left alone.

    Embeddings, and layers that no text reaches, are rounded to nearest.
    """
    linear = {name: layer for name, (layer, _) in layers.items() if isinstance(layer, nn.Linear)}
    judges = texts[JUDGE - 1 :: JUDGE] or texts
    hessians = calibrate.hessians(linear, lambda: _read(texts))
    start, larger, changes = {}, {}, {}
    for name, (layer, scheme) in layers.items():
        start[name] = _record(name, layer, scheme, hessians)
        if scheme.bits == SMALL and name in hessians:
            larger[name] = _record(name, layer, SCHEMES["int8"], hessians)
            changes[name] = torch.from_numpy(start[name].dequantize()) - layer.weight
        hessians.pop(name, None)
    return Choices(start, larger, curvature.costs(linear, changes, judges))


def quantize(
    student: LoadedStudent,
    plan: QuantizationPlan,
    layers: Layers,
    samples: Sequence[Any] | None,
) -> tuple[dict[str, QuantizedTensor], list[str]]:
    """Records of the layers by parameter name, and what was spent on each part, in words.

    The budget is of all the student's weights; those of no layer here stay float. `samples`: see `texts`, which come
    without an answer too.

    Raises:
        UserError: no samples, a budget that is no size, or one that is too small.
    """
    if not samples:
        raise UserError(f"{plan.name} needs samples, (image, question) pairs, to look at; give some, or take int4")
    found = choices(layers, texts(student, [(*sample, None)[:3] for sample in samples]))
    integers = {id(layer.weight) for layer, _ in layers.values()}
    prefixes = graphs.family(student.model_type).WEIGHTS
    rest, count = 0, 0
    for name, parameter in student.model.named_parameters():
        count += parameter.numel()
        if id(parameter) not in integers:
            part = graphs.part_of(name, prefixes)
            half = part is not None and plan.parts[part].float16 and parameter.ndim > 1
            rest += parameter.numel() * (2 if half else 4)
    start = sum(map(spend.size, found.start.values()))
    whole = USUAL * (start + rest) if plan.budget is None else by_part.budget_bytes(plan.budget, count)
    tensors = found.within(whole, rest)
    lines = [f"{plan.name}: {(rest + sum(map(spend.size, tensors.values()))) / 1e6:.2f} of {whole / 1e6:.2f} MB"]
    for part in PARTS:
        inside = [name for name in tensors if graphs.part_of(name, prefixes) == part]
        bought = [name for name in inside if tensors[name].bits > found.start[name].bits]
        if inside:
            size = sum(spend.size(tensors[name]) for name in inside) / 1e6
            at_start = math.fsum(found.costs.get(name, 0.0) for name in inside)
            saved = math.fsum(found.costs[name] for name in bought)
            words = f"{part}: {size:.2f} MB, {len(bought)} of {len(inside)} layers bought int8"
            lines.append(f"{words}, which saves {saved:.2g} of {at_start:.2g} nat a token" if at_start else words)
    return tensors, lines


def texts(student: LoadedStudent, samples: Sequence[tuple[Any, str, str | None]]) -> list[curvature.Text]:
    """Logits [tokens, vocab] of the answers to (image, question, answer) samples, each token given those before it.

    An answer of None is the student's own. Prompts are built anew each time: pictures of many would fill the memory.
    """
    family = graphs.family(student.model_type)
    found: list[curvature.Text] = []
    for image, question, answer in samples:
        if answer is None:
            ids = family.Reference(student, image, question, calibrate.ANSWER_TOKENS).answer
        else:
            ids = student.processor.tokenizer(answer, add_special_tokens=False)["input_ids"] + student.end_ids[:1]
        found.append(partial(_logits, student, image, question, ids))
    return found


def _logits(student: LoadedStudent, image: Any, question: str, answer: list[int]) -> torch.Tensor:
    family = graphs.family(student.model_type)
    inputs = reference.prompt(student.processor, image, question)
    prompt, more = inputs["input_ids"], len(answer) - 1
    seen = {
        name: nn.functional.pad(value, (0, more)) if value.shape == prompt.shape else value  # a kind for each token
        for name, value in family.Reference.see(inputs).items()
    }
    ids = torch.cat([prompt, torch.tensor([answer[:more]], dtype=torch.long)], dim=1)
    logits = student.model(input_ids=ids, attention_mask=torch.ones_like(ids), **seen).logits[0]
    return logits[prompt.shape[1] - 1 :]


@torch.no_grad()
def _read(texts: Sequence[curvature.Text]) -> None:
    """Run the texts that are GPTQ's."""
    for number, text in enumerate(texts, 1):
        if number % JUDGE or len(texts) < JUDGE:
            text()


def _record(
    name: str, layer: nn.Linear | nn.Embedding, scheme: Scheme, hessians: Mapping[str, torch.Tensor]
) -> QuantizedTensor:
    if name in hessians:
        return calibrate.gptq_tensor(name, layer.weight, scheme, hessians[name])
    return rtn.round_to_nearest(name, layer.weight, scheme)
