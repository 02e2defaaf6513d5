"""A plot's scale: values to shares of an axis, linear or logarithmic, and the ticks that stand on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high end, beyond them outside."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 7) -> list[float]:
        return _log_ticks(self.low, self.high, most) if self.log else _linear_ticks(self.low, self.high, most)

    @property
    def decades(self) -> float:
        return math.log10(self.high / self.low)


def around(values: Sequence[float], log: bool, room: float = 0.12, least: float = 0.0) -> Scale:
    """A scale that holds the values with `room` (a share of their span) at both ends.

    `least` is the smallest span: a difference on a linear scale, decades on a log one.
    """
    low, high = min(values), max(values)
    if log:
        low, high = math.log10(low), math.log10(high)
    span = max(high - low, least)
    middle = (low + high) / 2
    low, high = middle - span * (0.5 + room), middle + span * (0.5 + room)
    return Scale(10**low, 10**high, True) if log else Scale(low, high)


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """1, 2, 5, 10, ... inside the range, or fewer where that would be too many; more on a short scale."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    best: list[float] = []
    for steps in (
        (1,),
        (1, 3),
        (1, 2, 5),
        (1, 1.5, 2, 3, 5, 7),
        (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
        tuple(x / 5 for x in range(5, 50)),
    ):
        found = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if len(found) <= most:
            best = found if len(found) > len(best) else best
    return best


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]
