"""Intervals and tests against published figures, other programs' figures, and the formulas written another way."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masters_edge.benchmarks.report import statistics
from masters_edge.benchmarks.results import Stage


@pytest.mark.parametrize(
    ("new", "old", "low", "high"),
    [  # Newcombe 1998 (Statistics in Medicine 17, 873-890), table II, method 10
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_independent_shares_as_published(new: tuple, old: tuple, low: float, high: float) -> None:
    assert statistics.newcombe(*old, *new) == pytest.approx((low, high), abs=5e-5)


def test_independent_shares_as_statsmodels() -> None:
    # confint_proportions_2indep(8168, 9673, 8260, 9673, method="newcomb", compare="diff"), statsmodels 0.15.0
    expected = (-0.019597969285851346, 0.0005762083030603684)
    assert statistics.newcombe(8260, 9673, 8168, 9673) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("only_old", "only_new", "p"),
    [  # statsmodels 0.15.0, mcnemar(..., exact=True)
        (12, 2, 0.012939453125),
        (0, 5, 0.0625),
        (40, 25, 0.08168153394154003),
        (121, 90, 0.038643348782209014),
        (3, 3, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_as_statsmodels(only_old: int, only_new: int, p: float) -> None:
    assert statistics.mcnemar(only_old, only_new) == pytest.approx(p, rel=1e-12)
    assert statistics.mcnemar(only_new, only_old) == pytest.approx(p, rel=1e-12)


def test_mcnemar_bears_large_counts() -> None:
    assert 0 < statistics.mcnemar(2000, 2600) < 1e-15
    assert statistics.mcnemar(3000, 3001) > 0.98


def wilson(right: int, asked: int) -> tuple[float, float]:
    """Wilson's limits as the roots of (share - p)^2 = z^2 p (1 - p) / n, solved as a quadratic."""
    share, a = right / asked, 1 + statistics.Z**2 / asked
    b, c = -(2 * share + statistics.Z**2 / asked), share**2
    root = math.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


@given(st.tuples(*[st.integers(0, 60)] * 4).filter(lambda table: sum(table) > 0))
def test_paired_interval_holds_the_difference_and_turns_with_the_sides(table: tuple[int, int, int, int]) -> None:
    both, only_old, only_new, neither = table
    low, high = statistics.newcombe_paired(*table)
    difference = (only_new - only_old) / sum(table)
    assert -1 - 1e-9 <= low <= difference + 1e-12 and difference - 1e-12 <= high <= 1 + 1e-9
    turned = statistics.newcombe_paired(both, only_new, only_old, neither)
    assert turned == pytest.approx((-high, -low), abs=1e-12)


@given(st.tuples(*[st.integers(1, 60)] * 4))
def test_paired_interval_is_the_papers_formula(table: tuple[int, int, int, int]) -> None:
    """Written from the paper's letters: a b / c d with rows new, columns old, and phi corrected by n/2."""
    a, c, b, d = table  # only_old is c, only_new is b
    n = a + b + c + d
    l1, u1 = wilson(a + b, n)
    l2, u2 = wilson(a + c, n)
    p1, p2 = (a + b) / n, (a + c) / n
    numerator = a * d - b * c
    numerator = max(numerator - n / 2, 0) if numerator > 0 else numerator
    phi = numerator / math.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    delta = math.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    epsilon = math.sqrt((p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2)
    assert statistics.newcombe_paired(*table) == pytest.approx((p1 - p2 - delta, p1 - p2 + epsilon), abs=1e-9)


def test_paired_interval_covers_what_it_should() -> None:
    """Of intervals around draws with a known difference, 95% hold it; an unpaired one would be far wider."""
    rng = random.Random(0)
    chances, truth, held, width, loose = (0.75, 0.07, 0.10, 0.08), 0.03, 0, 0.0, 0.0
    for _ in range(600):
        drawn = rng.choices(range(4), chances, k=300)
        table = [drawn.count(kind) for kind in range(4)]
        low, high = statistics.newcombe_paired(*table)
        held += low <= truth <= high
        width += high - low
        low, high = statistics.newcombe(table[0] + table[1], 300, table[0] + table[2], 300)
        loose += high - low
    assert 0.92 < held / 600 < 0.98 and width < 0.9 * loose


def test_bootstrap_agrees_with_the_normal_interval() -> None:
    rng = random.Random(1)
    differences = [rng.choice((-1, -0.5, 0, 0, 0, 0, 0.5, 1)) + 0.05 for _ in range(2000)]
    mean = sum(differences) / 2000
    error = math.sqrt(sum((x - mean) ** 2 for x in differences) / 1999 / 2000)
    expected = (mean - statistics.Z * error, mean + statistics.Z * error)
    assert statistics.bootstrap(differences) == pytest.approx(expected, abs=0.15 * error)
    assert statistics.bootstrap(differences) == statistics.bootstrap(differences)


def test_error_of_a_median_is_that_of_draws() -> None:
    rng = random.Random(2)
    medians = [sorted(rng.gauss(100, 10) for _ in range(101))[50] for _ in range(1500)]
    mean = sum(medians) / 1500
    observed = math.sqrt(sum((x - mean) ** 2 for x in medians) / 1499)
    claimed = statistics.error_of_median(Stage(median=100, p90=113, spread=13.49, n=101))
    assert claimed == pytest.approx(observed, rel=0.06)


def test_medians_differ_beyond_their_errors_only() -> None:
    def stage(median: float) -> Stage:
        return Stage(median=median, p90=median, spread=2.0, n=100)

    assert statistics.medians_differ(stage(10), stage(10.6))
    assert not statistics.medians_differ(stage(10), stage(10.4))
