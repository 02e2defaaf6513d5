"""Masked teachers (METHOD 1): zero the smallest weights of each layer, put every one of them back bit for bit.

Ratios are nested, so one checkpoint serves a whole schedule. Of the weights that r_max would drop, only the values are
set aside, in order of position; where they belong follows from the weights themselves. A tensor's mask is two
numbers, a `Cut`: the threshold, and how far into the tensor its ties are dropped.
"""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import nn

from masters_edge.common.errors import UserError
from masters_edge.teacher import published

Norms = Mapping[str, torch.Tensor]

# The integer type whose order, with the sign bit cleared, is the order of the magnitudes.
_PATTERNS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
DTYPES = tuple(_PATTERNS)
_DIGIT = 16  # bits of a pattern that one histogram tells apart


def maskable(model: nn.Module, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """The weights that have a threshold of their own: those of the checkpoint as published (`published.weights`), of
    two or more dimensions, tied ones once; norms and biases never.

    By the name of their parameter, or, where several lie in one, by their own. `include` and `exclude` are globs of
    parameter names.

    Raises:
        UserError: one of them is neither float64, float32, float16 nor bfloat16 (a quantized weight), or lies in its
            parameter in a way that a mask can't follow.
    """
    for name, parameter in model.named_parameters(remove_duplicate=True):
        if parameter.dim() >= 2 and wanted(name, include, exclude):
            _require_floats(name, parameter)
    chosen = {}
    for parameter_name, name, weight in published.weights(model):
        if not wanted(parameter_name, include, exclude):
            continue
        if weight is None:
            raise UserError(
                f"{parameter_name} is put together from weights of the checkpoint in a way that masks can't follow in "
                "memory, so its thresholds would not be the checkpoint's; put it under mask.exclude, or mask nothing "
                "(mask.r_max: 0)"
            )
        if published.is_layer(name, weight.dim()):
            chosen[parameter_name if isinstance(weight, nn.Parameter) else name] = weight
    return chosen


def _require_floats(name: str, parameter: nn.Parameter) -> None:
    """Quantized weights are integers, or tensors of a kind of their own that say of themselves to be floats."""
    kind, plain = type(parameter.data), (torch.Tensor, nn.Parameter)
    if parameter.dtype in DTYPES and kind in plain:
        return
    found = str(parameter.dtype).removeprefix("torch.") if kind in plain else kind.__name__
    raise UserError(
        f"{name} is {found}: only float64, float32, float16 and bfloat16 weights can be masked; load the checkpoint "
        "unquantized, or exclude this tensor"
    )


def wanted(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether `name` matches a glob of `include` and none of `exclude`."""
    return any(fnmatch.fnmatch(name, g) for g in include) and not any(fnmatch.fnmatch(name, g) for g in exclude)


def check_globs(names: Iterable[str], include: Sequence[str], exclude: Sequence[str], options: str, of: str) -> None:
    """Every glob fits a name, and a weight is left that may be masked; `options` and `of` say whose they are.

    Args:
        names: of all weight tensors of two or more dimensions.
        include, exclude: as for `maskable`.
        options: how both are called, with a `{}` for which, such as `mask.{}`.
        of: the checkpoint, as messages name it.

    Raises:
        UserError: a glob that fits nothing, or nothing is left.
    """
    names = list(names)
    for option, globs in (("include", include), ("exclude", exclude)):
        for glob in globs:
            if not fnmatch.filter(names, glob):
                raise UserError(
                    f"{options.format(option)}: no weight tensor of {of} has a name like {glob!r}; "
                    f"names are such as {names[0] if names else '(there is none)'}"
                )
    if not any(wanted(name, include, exclude) for name in names):
        raise UserError(f"{options.format('exclude')} leaves no weight of {of} that may be masked; exclude less")


def dropped_count(weights: int, ratio: float) -> int:
    """`floor(ratio * weights)` of the ratio as it is written: 0.29 of 100 is 29, though 0.29 * 100 < 29 in floats."""
    return int(Fraction(repr(float(ratio))) * weights)


@dataclass(frozen=True, slots=True)
class Cut:
    """Which of a tensor's scores are dropped: those below `threshold`, and those equal to it before `position`.

    `threshold` is a bit pattern with the sign cleared, so that comparing is exact; `position` counts flat.
    """

    threshold: int
    position: int

    def below(self, scores: torch.Tensor, start: int = 0) -> torch.Tensor:
        """bool `[n]` of scores `[n]` that stand at `start` in the tensor."""
        found, ties = _patterns(scores), self.position - start
        if ties <= 0:
            return found < self.threshold
        if ties >= found.numel():
            return found <= self.threshold
        return torch.cat([found[:ties] <= self.threshold, found[ties:] < self.threshold])


def cut(chunks: Iterable[torch.Tensor], count: int) -> Cut:
    """The cut below which exactly `count` scores lie, ties in order of position; exact, and no sort.

    Radix selection: a histogram of the patterns' highest 16 bits finds the bin of the count-th smallest, a histogram
    of the next 16 bits within that bin goes on (none for 16-bit floats), then the ties are counted off.

    Args:
        chunks: the scores, flat and in order, such as `flat.split(2**18)`; gone through several times.
        count: at least 0, at most how many scores there are.
    """
    if count == 0:
        return Cut(0, 0)
    prefix, missing = 0, count
    top = shift = _PATTERNS[next(iter(chunks)).dtype].itemsize * 8 - _DIGIT
    while shift >= 0:
        totals = sum(_histogram(chunk, shift, prefix, first=shift == top) for chunk in chunks).cumsum(0)
        digit = int(torch.searchsorted(totals, missing))
        missing -= int(totals[digit - 1]) if digit else 0
        prefix, shift = prefix << _DIGIT | digit, shift - _DIGIT
    start = 0
    for chunk in chunks:
        ties = _patterns(chunk) == prefix
        here = int(ties.count_nonzero())
        if missing <= here:
            return Cut(prefix, start + int(_positions(ties)[missing - 1]) + 1)
        missing, start = missing - here, start + chunk.numel()
    raise ValueError(f"{count} is more than there are scores")


def _patterns(scores: torch.Tensor) -> torch.Tensor:
    """Bit patterns of the magnitudes; their order is that of the magnitudes (any NaN last)."""
    integer = _PATTERNS[scores.dtype]
    return scores.view(integer) & torch.iinfo(integer).max


def _histogram(scores: torch.Tensor, shift: int, prefix: int, first: bool) -> Any:
    """int64 `[2**16]`: how often each value of 16 bits above `shift` occurs among patterns that start with `prefix`."""
    patterns = _patterns(scores)
    if not first:
        patterns = patterns[(patterns >> (shift + _DIGIT)) == prefix]
    if shift:
        patterns = patterns >> shift
    if not first:
        patterns = patterns & 0xFFFF
    return torch.bincount(patterns.long(), minlength=1 << _DIGIT)


def _zero(values: torch.Tensor, dropped: torch.Tensor) -> None:
    """In place; multiplying the bits takes a fifth of the time of `masked_fill_` on a CPU, and 0 has no bit set."""
    values.view(_PATTERNS[values.dtype]).mul_(~dropped)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """int64 positions of true values; NumPy finds them four times as fast as torch on a CPU."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().view(-1)


class _Weights:
    """One tensor, flat, with its scores a chunk at a time, so that nothing beside it grows with it."""

    def __init__(self, name: str, parameter: torch.Tensor, norms: torch.Tensor | None = None) -> None:
        if not parameter.is_contiguous():
            raise ValueError(f"{name} is not contiguous in memory, so it can't be masked in place")
        self.name, self.flat = name, parameter.detach().view(-1)
        self.norms = None if norms is None else norms.to(self.flat.device)
        self.size = 1 << (19 if self.flat.device.type == "cpu" else 22)  # weights: the CPU's cache; a GPU's launches
        if self.norms is not None:
            columns = self.norms.numel()
            if parameter.dim() != 2 or parameter.shape[1] != columns:
                raise ValueError(f"{name} is {list(parameter.shape)}, but has {columns} activation norms")
            self.size = max(1, self.size // columns) * columns  # whole rows

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Scores of the weights as they are now, chunk by chunk."""
        for chunk in self.flat.split(self.size):
            yield self.score(chunk)

    def score(self, weights: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """Scores of a chunk of whole rows, or of what lies at `positions` of it; elementwise, so always the same."""
        if self.norms is None:
            return weights
        if positions is None:
            return (weights.abs().view(-1, self.norms.numel()) * self.norms).view(-1)
        return weights.abs() * self.norms[positions % self.norms.numel()]

    @torch.no_grad()
    def mask_(self, ratio: float) -> None:
        """Zero `floor(ratio * n)` weights in place, for good."""
        dropped, start = cut(self, dropped_count(self.flat.numel(), ratio)), 0
        for chunk in self.flat.split(self.size):
            _zero(chunk, dropped.below(self.score(chunk), start))
            start += chunk.numel()


class _SetAside:
    """A tensor and the values it loses at r_max, in order of position.

    Where they belong needs no memory. A weight that is dropped now is 0, scores 0, and so lies below the cut at r_max
    (where the threshold is itself 0, its ties end at a position that dropping doesn't move); one that is back has its
    own score, which lies below too; every other weight never changes.
    """

    def __init__(self, weights: _Weights, r_max: float) -> None:
        self.weights, self.chunks = weights, weights.flat.split(weights.size)
        count = dropped_count(weights.flat.numel(), r_max)
        self.cut = cut(weights, count)
        self.values = torch.empty(count, dtype=weights.flat.dtype, device=weights.flat.device)
        self.starts = [0]  # where each chunk's values start among all; never changes
        for number, chunk in enumerate(self.chunks):
            positions = self._positions(number)
            self.starts.append(self.starts[-1] + len(positions))
            self._values(number).copy_(chunk[positions])
        self._cuts: dict[float, Cut] = {}

    def _positions(self, number: int) -> torch.Tensor:
        """int64 places in a chunk that r_max drops."""
        chunk = self.chunks[number]
        return _positions(self.cut.below(self.weights.score(chunk), number * self.weights.size))

    def _values(self, number: int) -> torch.Tensor:
        return self.values[self.starts[number] : self.starts[number + 1]]

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Scores of the values, chunk by chunk."""
        if self.weights.norms is None:
            yield from self.values.split(self.weights.size)
            return
        for number in range(len(self.chunks)):
            yield self.weights.score(self._values(number), self._positions(number))

    def at(self, ratio: float) -> Cut:
        """The cut at `ratio` among the values, so with positions among them."""
        if ratio not in self._cuts:
            self._cuts[ratio] = cut(self, dropped_count(self.weights.flat.numel(), ratio))
        return self._cuts[ratio]

    @torch.no_grad()
    def write(self, number: int, dropped: Cut) -> None:
        """Mask one chunk: its values back in place, those that `dropped` names as zeros."""
        chunk, values = self.chunks[number], self._values(number)
        if self.weights.norms is None and chunk.device.type == "cpu":
            found = _write(chunk, values, self.cut, number * self.weights.size, dropped, self.starts[number])
        else:
            positions = self._positions(number)
            if (found := len(positions)) == len(values):
                values = values.clone()
                _zero(values, dropped.below(self.weights.score(values, positions), self.starts[number]))
                chunk.index_copy_(0, positions, values)
        if found != len(values):
            raise RuntimeError(f"{self.weights.name} was changed while it was masked, so it can't be restored")


def _write(chunk: torch.Tensor, values: torch.Tensor, cut: Cut, start: int, dropped: Cut, taken: int) -> int:
    """`_SetAside.write` in NumPy, which leaves other threads alone; returns how many positions were found."""
    integer = _PATTERNS[chunk.dtype]
    weights, kept = chunk.view(integer).numpy(), values.view(integer).numpy()
    positions = np.flatnonzero(_below(weights, cut, start))
    if len(positions) == len(kept):
        weights[positions] = kept * ~_below(kept, dropped, taken)
    return len(positions)


def _below(patterns: np.ndarray, cut: Cut, start: int) -> np.ndarray:
    """`Cut.below` of patterns with their signs."""
    magnitudes = patterns & np.iinfo(patterns.dtype).max
    found, ties = magnitudes < cut.threshold, max(0, cut.position - start)
    found[:ties] |= magnitudes[:ties] == cut.threshold
    return found


class MaskedTeacher:
    """Switches a model in place between masking ratios.

    Exactly `floor(r * n)` weights of each weight tensor of the checkpoint, of `n`, are zero at ratio `r` (ties in order
    of position), besides those that were zero anyway. Weights are float64, float32, float16 or bfloat16, on any device.
    The model is untouched until the first `set_ratio`.

    Args:
        model: masked in place; nothing else may change its weights meanwhile.
        r_max: the largest ratio that will be asked for; its share of the weights is held a second time.
        include: globs of parameter names that may be masked.
        exclude: globs of parameter names that never are.
        norms: float32 `[in]` by name of a weight `[out, in]`, as `activation_norms` gathers them: those tensors are
            masked by magnitude x norm of the column's input (METHOD 1, ours) instead of magnitude alone.

    Raises:
        ValueError: r_max out of bounds, or norms that don't fit their weight.
        UserError: as `maskable`, where there is something to mask.
    """

    def __init__(
        self,
        model: nn.Module,
        r_max: float,
        include: Sequence[str] = ("*",),
        exclude: Sequence[str] = (),
        norms: Norms | None = None,
    ) -> None:
        if not 0 <= r_max < 1:
            raise ValueError(f"r_max must be at least 0 and less than 1, not {r_max}")
        self.model, self.r_max, self.ratio = model, r_max, 0.0
        self._tensors = [_SetAside(w, r_max) for w in _weights(model, include, exclude, norms)] if r_max else []

    def set_ratio(self, ratio: float) -> None:
        """Mask at `ratio`; 0 restores the untouched teacher bit for bit.

        Raises:
            ValueError: `ratio` is negative or larger than r_max.
            RuntimeError: somebody else changed the weights.
        """
        if not 0 <= ratio <= self.r_max:
            raise ValueError(f"ratio must lie between 0 and r_max ({self.r_max}), not {ratio}")
        if ratio == self.ratio:
            return
        todo = [(t, number, t.at(ratio)) for t in self._tensors if len(t.values) for number in range(len(t.chunks))]
        if any(p.device.type != "cpu" for p in self.model.parameters()):
            for tensor, number, dropped in todo:
                tensor.write(number, dropped)
        else:
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                list(pool.map(lambda job: job[0].write(*job[1:]), todo))
        self.ratio = ratio

    @property
    def extra_bytes(self) -> int:
        """Bytes of the tensors held besides the model: `r_max` of its masked weights' bytes, and the norms."""
        held = [t for s in self._tensors for t in (s.values, s.weights.norms) if t is not None]
        return sum(t.numel() * t.element_size() for t in held)


def mask_(
    model: nn.Module,
    ratio: float,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    norms: Norms | None = None,
) -> None:
    """The weights of `MaskedTeacher` at `ratio`, in place, with no way back and no memory held.

    For models that are loaded again for each stage, such as those sharded afterwards (FSDP, ZeRO-3). A larger ratio
    may follow a smaller one. Raises as `MaskedTeacher` does.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio must be at least 0 and less than 1, not {ratio}")
    if not ratio:
        return
    for weights in _weights(model, include, exclude, norms):
        weights.mask_(ratio)


def mask_tensor_(tensor: torch.Tensor, ratio: float, name: str = "the tensor") -> None:
    """Zero the `floor(ratio * n)` smallest magnitudes of one tensor in place."""
    _Weights(name, tensor).mask_(ratio)


def _weights(
    model: nn.Module, include: Sequence[str], exclude: Sequence[str], norms: Norms | None
) -> Iterator[_Weights]:
    norms = norms or {}
    for name, parameter in maskable(model, include, exclude).items():
        if name in norms and not bool(torch.isfinite(norms[name]).all()):
            raise ValueError(f"the activation norms of {name} are not finite")
        yield _Weights(name, parameter, norms.get(name))


@contextmanager
def activation_norms(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Gathers the L2 norm of each input column of every `nn.Linear` while the model runs inside the block.

    Yields a dictionary that is full once the block has ended: by parameter name float32 `[in]`, on the CPU. A weight
    that several modules share sums over them. Linear layers that saw nothing are missing, and so masked by magnitude
    alone. Padding counts as any token does, so give one question at a time.
    """
    names = {id(p): name for name, p in model.named_parameters(remove_duplicate=True)}
    squares: dict[str, torch.Tensor] = {}
    found: dict[str, torch.Tensor] = {}

    def gather(module: nn.Linear, inputs: tuple[Any, ...]) -> None:
        seen = inputs[0].detach().float().reshape(-1, module.in_features).square().sum(0)
        name = names[id(module.weight)]
        squares[name] = squares[name] + seen if name in squares else seen

    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_pre_hook(gather) for module in linears]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
    found.update({name: total.sqrt().cpu() for name, total in squares.items()})
