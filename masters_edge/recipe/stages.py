"""Where the stages of a mask schedule begin (Eq. 3): plain arithmetic on steps and lengths."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

AUTO_STAGES = 5  # of `mask.r_max: auto`, as the paper's 0.20, 0.15, 0.10, 0.05, 0
RUNGS = (0.0, 0.05, 0.10, 0.15, 0.20, 0.30, 0.40, 0.50, 0.60, 0.70, 0.80)  # the ratios that `auto` tries


@dataclass(frozen=True, slots=True)
class Masks:
    """One teacher's masking ratios: r_max, r_max - step, ..., 0."""

    r_max: float
    step: float

    @property
    def ratios(self) -> list[float]:
        """The ratio of each of the `M = r_max / step + 1` stages: r_max first, 0 last, whatever rounding makes of the
        steps between them."""
        last = round(self.r_max / self.step) if self.r_max else 0
        between = [round(self.r_max - self.step * stage, 10) for stage in range(1, last)]
        return [self.r_max, *between, 0.0] if last else [0.0]


def five_stages(r_max: float) -> Masks:
    """The schedule of an r_max that was measured: five stages, or a single one where no masking is borne."""
    return Masks(r_max, r_max / (AUTO_STAGES - 1))


def starts(steps: int, lengths: Sequence[float]) -> list[int]:
    """First step of each of `len(lengths)` stages that share `steps` in proportion to `lengths`, and `steps` itself.

    Stage k starts at the first step that is at least `steps * sum(lengths[:k]) / sum(lengths)`; with equal lengths that
    is the first `i` with `floor(i * M / I) = k` (Eq. 3).
    """
    shares = [Fraction(str(length)) for length in lengths]
    total = sum(shares)
    return [-(-steps * sum(shares[:stage], Fraction(0)) // total) for stage in range(len(shares))] + [steps]


def shortest(steps: int, teachers: Sequence[float], stages: Sequence[float]) -> int:
    """Steps of the shortest stage, where teachers share a phase's `steps` and stages each teacher's part."""
    ends = starts(steps, teachers)
    parts = [starts(after - before, stages) for before, after in zip(ends, ends[1:])]
    return min(after - before for part in parts for before, after in zip(part, part[1:]))
