"""Scales with which rounding hurts least: for each group the float16 number of least squared error, by search."""

import torch

_FACTORS = torch.linspace(0.6, 1.12, 27)  # of the scale that just holds the group's largest magnitude
_SMALLEST = 2.0**-16  # the smallest scale that torchao's own rounding takes (rtn.SMALLEST_SCALE)
FLOOR = 0.01  # of the mean importance: features that no sample showed count so much, as in GPTQ's damping
_ROWS = 4096  # at a time: candidates are as large as the weight


def least_error(weight: torch.Tensor, bits: int, group: int, importance: torch.Tensor | None = None) -> torch.Tensor:
    """float16 [out, in / group] for a weight [out, in]; symmetric, positive, so that every runtime takes them.

    `importance` [in] weighs each input feature's error, for example by its mean square (diagonal of GPTQ's Hessian):
    then it is the error of the layer's outputs, as if input features were independent.
    """
    rows = [_of_rows(part, bits, group, importance) for part in weight.detach().float().split(_ROWS)]
    return torch.cat(rows)


def _of_rows(weight: torch.Tensor, bits: int, group: int, importance: torch.Tensor | None) -> torch.Tensor:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    grouped = weight.view(len(weight), -1, group)
    heavy = torch.ones(1, *grouped.shape[1:]) if importance is None else importance.float().view(1, -1, group)
    heavy = heavy + FLOOR * heavy.mean()
    widest = grouped.abs().amax(-1) / (high + 0.5)
    best = torch.full_like(widest, torch.inf)
    chosen = torch.full_like(widest, _SMALLEST)
    for factor in _FACTORS:
        scale = (widest * factor).half().float().clamp_min(_SMALLEST)
        step = scale[..., None]
        error = ((((grouped / step).round_().clamp_(low, high) * step) - grouped).square_() * heavy).sum(-1)
        better = error < best
        best, chosen = torch.where(better, error, best), torch.where(better, scale, chosen)
    return chosen.half()
