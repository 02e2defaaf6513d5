"""Masked teachers (METHOD 1): zero the smallest weights of each layer, put every one of them back bit for bit.

Ratios are nested, so one checkpoint serves a whole schedule: the weights that r_max would drop are set aside once, in
order of magnitude, and a smaller ratio zeroes a prefix of them.
"""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


def maskable(model: nn.Module, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """Weight tensors of two or more dimensions by name, tied ones once; norms and biases never."""
    chosen = {}
    for name, parameter in model.named_parameters(remove_duplicate=True):
        wanted = any(fnmatch.fnmatch(name, glob) for glob in include)
        if parameter.dim() >= 2 and wanted and not any(fnmatch.fnmatch(name, glob) for glob in exclude):
            chosen[name] = parameter
    return chosen


@dataclass(frozen=True, slots=True)
class _SetAside:
    """The weights one tensor loses at r_max: flat positions int64/int32 `[k]` and values `[k]`, smallest first."""

    parameter: nn.Parameter
    positions: torch.Tensor
    values: torch.Tensor


class MaskedTeacher:
    """Switches a model in place between masking ratios.

    Exactly `floor(r * n)` weights of each tensor of `n` are zero at ratio `r` (ties in order of position), besides
    those that were zero anyway. Extra memory: `r_max` times 4 bytes plus one weight, per weight.
    """

    def __init__(
        self, model: nn.Module, r_max: float, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
    ) -> None:
        if not 0 <= r_max < 1:
            raise ValueError(f"r_max must be at least 0 and less than 1, not {r_max}")
        self.model, self.r_max, self.ratio = model, r_max, 0.0
        self._layers = [_set_aside(p, r_max) for p in maskable(model, include, exclude).values()]

    @torch.no_grad()
    def set_ratio(self, ratio: float) -> None:
        """Mask at `ratio`; 0 restores the untouched teacher bit for bit.

        Raises:
            ValueError: `ratio` is negative or larger than r_max.
        """
        if not 0 <= ratio <= self.r_max:
            raise ValueError(f"ratio must lie between 0 and r_max ({self.r_max}), not {ratio}")
        if ratio == self.ratio:
            return
        for layer in self._layers:
            flat = layer.parameter.view(-1)
            dropped = _count(flat.numel(), ratio)
            kept = layer.positions[dropped:].long()
            flat[kept] = layer.values[dropped:]
            flat[layer.positions[:dropped].long()] = 0
        self.ratio = ratio


def _count(weights: int, ratio: float) -> int:
    """floor(ratio * weights), safe from 0.1 * 30 = 3.0000000000000004 and 0.29 * 100 = 28.999999999999996."""
    return int(ratio * weights + 1e-9)


def _set_aside(parameter: nn.Parameter, r_max: float) -> _SetAside:
    flat = parameter.detach().view(-1)
    order = torch.argsort(flat.abs(), stable=True)[: _count(flat.numel(), r_max)]
    positions = order.to(torch.int32) if flat.numel() < 2**31 else order
    return _SetAside(parameter, positions, flat[order].clone())
