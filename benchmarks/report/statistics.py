"""Is a difference more than chance? Shares on the same or on other questions, and medians of latencies.

In: counts, scores of single questions, or `Stage`s. Out: differences as fractions with 95% intervals, and p values.
"""

import math
from collections.abc import Sequence

from masters_edge.benchmarks.results import Stage
from masters_edge.scoring.metrics import wilson_interval

Z = 1.959963984540054  # 95%
_DRAWS = 2000
_AT_ONCE = 4_000_000  # numbers drawn in one go


def newcombe(right_old: float, asked_old: int, right_new: float, asked_new: int) -> tuple[float, float]:
    """95% interval of new share minus old share, asked independently.

    Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10.
    """
    old, new = right_old / asked_old, right_new / asked_new
    low_old, high_old = wilson_interval(right_old, asked_old)
    low_new, high_new = wilson_interval(right_new, asked_new)
    difference = new - old
    return (
        difference - math.hypot(new - low_new, high_old - old),
        difference + math.hypot(high_new - new, old - low_old),
    )


def newcombe_paired(both: int, only_old: int, only_new: int, neither: int) -> tuple[float, float]:
    """95% interval of new share minus old share on the same questions, from how many each had right.

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired
    data", method 10 (with the continuity-corrected phi).
    """
    asked = both + only_old + only_new + neither
    right_old, right_new = both + only_old, both + only_new
    old, new = right_old / asked, right_new / asked
    low_old, high_old = wilson_interval(right_old, asked)
    low_new, high_new = wilson_interval(right_new, asked)
    margins = right_old * (asked - right_old) * right_new * (asked - right_new)
    cross = both * neither - only_old * only_new
    corrected = cross if cross < 0 else max(cross - asked / 2, 0.0)
    phi = corrected / math.sqrt(margins) if margins else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    difference = new - old
    return difference - reach(new - low_new, high_old - old), difference + reach(high_new - new, old - low_old)


def mcnemar(only_old: int, only_new: int) -> float:
    """Two-sided p value of McNemar's exact test: the questions that only one had right, as throws of a coin."""
    thrown, fewer = only_old + only_new, min(only_old, only_new)
    ways, tail = 1, 0
    for heads in range(fewer + 1):
        tail += ways
        ways = ways * (thrown - heads) // (heads + 1)
    return min(1.0, 2 * tail / 2**thrown)


def bootstrap(differences: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mean of paired differences in score, for metrics that give partial credit."""
    import numpy as np

    values = np.asarray(differences, dtype=np.float64)
    random = np.random.default_rng(seed)
    rows = max(1, _AT_ONCE // len(values))
    means: list[float] = []
    while len(means) < _DRAWS:
        drawn = random.integers(0, len(values), size=(min(rows, _DRAWS - len(means)), len(values)))
        means += values[drawn].mean(axis=1).tolist()
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def error_of_median(stage: Stage) -> float:
    """Standard error of a median over `n` answers, from their interquartile range: 1.2533 (IQR / 1.349) / sqrt(n).

    Source: McGill, Tukey and Larsen 1978 (the notches of box plots); exact for a normal distribution, near it for
    others.
    """
    return 1.2533 * stage.spread / 1.349 / math.sqrt(stage.n)


def medians_differ(old: Stage, new: Stage) -> bool:
    """Whether two medians are further apart than 1.96 standard errors of their difference."""
    return abs(new.median - old.median) > Z * math.hypot(error_of_median(old), error_of_median(new))
