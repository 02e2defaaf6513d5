"""Against independent computations: mpmath's incomplete beta function, numpy, and a simulation."""

import math

import mpmath
import numpy as np
import pytest

from masters_edge.ablate.statistics import Estimate, estimate, paired, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 29, 30, 200])
def test_quantile_against_the_incomplete_beta_function(freedom: int) -> None:
    t = t_quantile(0.975, freedom)
    above = mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True) / 2
    assert float(above) == pytest.approx(0.025, abs=1e-12)


def test_quantiles_of_the_printed_table() -> None:
    assert [round(t_quantile(0.975, n), 3) for n in (1, 2, 4, 9)] == [12.706, 4.303, 2.776, 2.262]
    assert t_quantile(0.95, 4) == pytest.approx(2.132, abs=5e-4)


def test_mean_and_interval() -> None:
    values = [84.7, 85.7, 84.9, 85.1, 86.0]
    found = estimate(values)
    reach = 2.7764451051977987 * np.std(values, ddof=1) / math.sqrt(5)
    assert found.mean == pytest.approx(np.mean(values)) and found.n == 5
    assert (found.low, found.high) == pytest.approx((np.mean(values) - reach, np.mean(values) + reach))
    assert estimate([85.0]) == Estimate(85.0, 1, None, None)


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.normal(80, 2, (4000, 5))
    covered = [found.low <= 80 <= found.high for found in map(estimate, drawn.tolist())]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


def test_differences_are_paired_by_seed() -> None:
    ours, theirs = {0: 85.0, 1: 75.0, 2: 95.0, 7: 50.0}, {0: 84.0, 1: 74.2, 2: 93.9, 8: 99.0}
    found = paired(ours, theirs)
    assert found is not None and found.n == 3 and found.mean == pytest.approx(np.mean([1.0, 0.8, 1.1]))
    assert found.verdict == "better"  # although the arms themselves spread over twenty points
    assert paired(theirs, ours).verdict == "worse"
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_no_verdict_where_the_interval_has_zero_or_is_missing() -> None:
    assert estimate([0.5, -0.1, 0.4]).verdict == ""
    assert estimate([3.0]).verdict == ""
