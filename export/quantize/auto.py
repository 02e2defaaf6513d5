"""Integers under a budget: int4 everywhere, int8 where the answers owe most to a layer, both by GPTQ.

In: layers with the scheme each starts from, and texts that the student is run on (`curvature.Text`). Most texts make
GPTQ's Hessians, the others say what the rounded layers cost, so that no layer is judged on what it was fitted to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from masters_edge.common.errors import UserError
from masters_edge.export.quantize import calibrate, curvature, rtn, spend
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.quantization.schemes import SCHEMES, Scheme

Layers = Mapping[str, tuple[nn.Linear | nn.Embedding, Scheme]]

SMALL = 4  # bits of a layer that may become int8
JUDGE = 4  # each so many-th text says what layers cost, the others are GPTQ's


@dataclass(frozen=True)
class Choices:
    """By parameter name: the record with the scheme that a layer starts from; for layers of four bits the int8 record
    that could take its place; and the nats a token that four bits cost there."""

    start: dict[str, QuantizedTensor]
    larger: dict[str, QuantizedTensor]
    costs: dict[str, float]

    def within(self, budget: float) -> dict[str, QuantizedTensor]:
        """Records that take at most `budget` bytes.

        Raises:
            UserError: the budget is below what the schemes take as they are.
        """
        need = sum(map(spend.size, self.start.values()))
        if budget < need:
            raise UserError(
                f"the budget leaves {budget / 1e6:.2f} MB for integers, which take {need / 1e6:.2f} MB at the least; "
                "give more, or let more parts be int4"
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
