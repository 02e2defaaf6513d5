"""R_distill and advantages of METHOD 5, against the group written out response by response."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masters_edge import rewards

GROUPS = st.lists(st.tuples(st.floats(0, 0.69), st.integers(1, 4)), min_size=1, max_size=8)


def test_closest_gets_one_furthest_zero() -> None:
    found = rewards.distillation(np.array([0.1, 0.5, 0.2]))
    np.testing.assert_allclose(found, [1.0, 0.0, 0.75])


def test_equal_divergences_all_get_one() -> None:
    assert rewards.distillation(np.array([0.3, 0.3])).tolist() == [1.0, 1.0]


@given(GROUPS)
def test_counts_stand_for_repeated_responses(group: list[tuple[float, int]]) -> None:
    values, counts = np.array([v for v, _ in group]), np.array([c for _, c in group])
    found = rewards.advantages(values, counts)
    spread_out = np.repeat(values, counts)
    if spread_out.std() < 1e-12:
        assert not found.any()
    else:
        expected = (spread_out - spread_out.mean()) / spread_out.std()
        np.testing.assert_allclose(np.repeat(found, counts), expected, atol=1e-6)
        assert np.average(found, weights=counts) == pytest.approx(0, abs=1e-6)
