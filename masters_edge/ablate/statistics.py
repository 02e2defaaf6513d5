"""Means over seeds with their uncertainty, and differences between two arms seed by seed.

In: one accuracy for each seed. Out: a mean and its 95% interval by Student's t.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` seeds; the interval is None where one seed says nothing about the spread."""

    mean: float
    n: int
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self) -> str:
        """Of a difference: `better` or `worse` only where the interval excludes 0."""
        if self.low is None or self.high is None:
            return ""
        return "better" if self.low > 0 else "worse" if self.high < 0 else ""


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95% interval `mean +- t(0.975, n - 1) s / sqrt(n)` (Student 1908; s with n - 1)."""
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return Estimate(mean, n)
    reach = t_quantile(0.975, n - 1) * statistics.stdev(values) / math.sqrt(n)
    return Estimate(mean, n, mean - reach, mean + reach)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """The mean of the differences at the seeds that both have; None where there is none.

    A seed fixes held-out split, labels kept, order and sampling, so both arms of a pair met the same luck.
    """
    both = sorted(ours.keys() & theirs.keys())
    return estimate([ours[seed] - theirs[seed] for seed in both]) if both else None


def t_quantile(probability: float, freedom: int) -> float:
    """The t that a share `probability` (0.5 to 1) of Student's distribution lies below.

    Bisection on the distribution function, which has a closed form for whole degrees of freedom (Abramowitz and
    Stegun 1964, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 2 * probability - 1 else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _within(theta: float, freedom: int) -> float:
    """The share of Student's distribution between -t and t, `theta = atan(t / sqrt(freedom))`."""
    cosine, term, total = math.cos(theta), 1.0, 0.0
    if freedom % 2:
        term = cosine
        for k in range(1, (freedom - 1) // 2 + 1):
            total += term
            term *= cosine * cosine * 2 * k / (2 * k + 1)
        return 2 / math.pi * (theta + math.sin(theta) * total)
    for k in range(1, freedom // 2 + 1):
        total += term
        term *= cosine * cosine * (2 * k - 1) / (2 * k)
    return math.sin(theta) * total
