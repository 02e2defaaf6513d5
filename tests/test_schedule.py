"""The mask schedule of Eq. 3, the stages of a chain, and the order of visits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masters_edge import schedule
from masters_edge.recipe import Recipe


def test_schedule_of_the_paper() -> None:
    ratios = schedule.mask_ratios(0.20, 0.05, 10)
    assert ratios == [0.20, 0.20, 0.15, 0.15, 0.10, 0.10, 0.05, 0.05, 0.0, 0.0]


@given(st.integers(0, 9), st.integers(10, 500))
def test_schedule_falls_from_r_max_to_zero_in_equal_stages(stages: int, iterations: int) -> None:
    ratios = schedule.mask_ratios(stages * 0.1, 0.1, iterations)
    assert ratios[0] == pytest.approx(stages * 0.1) and ratios[-1] == 0.0
    assert ratios == sorted(ratios, reverse=True)
    lengths = [ratios.count(r) for r in set(ratios)]
    assert len(lengths) == stages + 1 and max(lengths) - min(lengths) <= 1


def test_each_teacher_of_a_chain_runs_the_whole_schedule() -> None:
    recipe = Recipe(
        student="s", teachers=["mid", "large"], data={"train": {"source": "x"}}, train={"phases": [{"steps": 103}]}
    )
    found = schedule.stages(recipe, recipe.train.phases[0])
    assert [(s.teacher, s.ratio) for s in found] == [(t, r) for t in (0, 1) for r in (0.2, 0.15, 0.1, 0.05, 0.0)]
    assert found[0].first == 0 and found[-1].last == 103
    assert all(before.last == after.first for before, after in zip(found, found[1:]))


@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 9), st.integers(0, 5))
def test_every_question_is_visited_before_any_a_second_time(count: int, steps: int, per_step: int, seed: int) -> None:
    order = schedule.visits(count, steps, per_step, seed)
    assert order.shape == (steps, per_step)
    for start in range(0, order.size, count):
        part = order.flat[start : start + count]
        assert len(set(part)) == len(part)
    np.testing.assert_array_equal(order, schedule.visits(count, steps, per_step, seed))
