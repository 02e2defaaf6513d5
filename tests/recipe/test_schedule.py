"""The mask schedule of Eq. 3, the stages of a chain, and the order of visits."""

import itertools
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masters_edge.recipe import Recipe, schedule
from masters_edge.recipe.schema import Mask
from masters_edge.recipe.stages import Masks, five_stages
from masters_edge.run import outline


def recipe(steps: int, teachers: int = 1, **mask) -> Recipe:
    return Recipe(
        student="s",
        teachers=[f"t{n}" for n in range(teachers)],
        data={"train": {"source": "x"}},
        mask=mask,
        train={"phases": [{"steps": steps}]},
    )


def ratios(made: Recipe, chain: list[Masks] | None = None) -> list[float]:
    """The ratio of every step."""
    found = schedule.stages(made, made.train.phases[0], chain)
    return [stage.ratio for stage in found for _ in range(stage.first, stage.last)]


def test_schedule_of_the_paper() -> None:
    assert ratios(recipe(10)) == [0.20, 0.20, 0.15, 0.15, 0.10, 0.10, 0.05, 0.05, 0.0, 0.0]


@given(st.integers(0, 9), st.integers(10, 500))
def test_equal_stages_are_those_of_equation_3(stages: int, iterations: int) -> None:
    r_max, step, count = Decimal(stages) / 10, Decimal("0.1"), stages + 1
    expected = [float(r_max - step * (i * count // iterations)) for i in range(iterations)]  # Eq. 3 as it stands
    assert ratios(recipe(iterations, r_max=float(r_max), step=0.1)) == pytest.approx(expected)


@given(st.integers(1, 3), st.integers(1, 5), st.data())
def test_lengths_share_out_the_steps_in_proportion(teachers: int, stages: int, data: st.DataObject) -> None:
    sizes = st.floats(0.5, 10).map(lambda x: round(x, 2))
    shares = data.draw(st.lists(sizes, min_size=teachers, max_size=teachers))
    lengths = data.draw(st.lists(sizes, min_size=stages, max_size=stages))
    steps = data.draw(st.integers(8000, 20_000))
    made = recipe(steps, teachers, r_max=(stages - 1) * 0.1, step=0.1, stage_lengths=lengths, teacher_lengths=shares)
    found = schedule.stages(made, made.train.phases[0])
    assert found[0].first == 0 and found[-1].last == steps and [s.index for s in found] == list(range(len(found)))
    assert all(before.last == after.first for before, after in zip(found, found[1:]))
    for stage in found:
        share = shares[stage.teacher] / sum(shares) * lengths[stage.index % stages] / sum(lengths)
        assert abs(stage.last - stage.first - steps * share) < 2


def test_each_teacher_has_its_own_measured_masks() -> None:
    made = recipe(100, 3, r_max="auto", teacher_lengths=[1, 1, 2], stage_lengths=[4, 1, 1, 1, 1])
    with pytest.raises(ValueError, match="once the teachers are measured"):
        schedule.stages(made, made.train.phases[0])
    found = schedule.stages(made, made.train.phases[0], [five_stages(0.4), five_stages(0.15), five_stages(0.0)])
    assert [(s.teacher, s.ratio) for s in found] == [
        *[(0, r) for r in (0.4, 0.3, 0.2, 0.1, 0.0)],
        *[(1, r) for r in (0.15, 0.1125, 0.075, 0.0375, 0.0)],
        (2, 0.0),
    ]
    assert [s.last - s.first for s in found] == [13, 3, 3, 3, 3, 13, 3, 3, 3, 3, 50]


@pytest.mark.parametrize(
    ("mask", "steps", "said"),
    [
        ({"stage_lengths": [1, 2]}, 100, "mask.stage_lengths has 2 entries, but mask.r_max 0.2 makes 5 stages"),
        ({"r_max": "auto", "stage_lengths": [1] * 4}, 100, "mask.stage_lengths has 4 entries"),
        ({"teacher_lengths": [1]}, 100, "mask.teacher_lengths has 1 entries, but there are 2 teachers"),
        ({}, 9, "leaves one of the 5 mask stages of 2 teacher"),
        ({"r_max": "auto"}, 9, "leaves one of the 5 mask stages of 2 teacher"),
        ({"teacher_lengths": [1, 99]}, 100, "leaves one of the 5 mask stages of 2 teacher"),
        ({"stage_lengths": [1, 1, 1, 1, 1000]}, 100, "leaves one of the 5 mask stages of 2 teacher"),
        ({"stage_lengths": [1, 1, 0, 1, 1]}, 100, "greater than 0"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(mask: dict, steps: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        recipe(steps, 2, **mask)


def test_auto_needs_held_out_questions() -> None:
    with pytest.raises(ValueError, match="data.held_out is 0"):
        Recipe(student="s", teachers=["t"], data={"train": {"source": "x"}, "held_out": 0}, mask={"r_max": "auto"})


def test_a_plan_shows_shares_of_an_r_max_that_is_still_to_be_measured() -> None:
    shown = "\n".join(outline.lines(recipe(100, 2, r_max="auto"), Path("r.yaml")))
    assert "steps 0 to 10: t0, mask 1.00 x r_max" in shown and "t1, mask 0.25 x r_max" in shown
    assert "r_max auto: each teacher's largest ratio that keeps 95%" in shown
    assert "x r_max" not in "\n".join(outline.lines(recipe(100, 2), Path("r.yaml")))


def test_each_teacher_of_a_chain_runs_the_whole_schedule() -> None:
    made = recipe(103, 2)
    found = schedule.stages(made, made.train.phases[0])
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


def test_ratios_begin_at_r_max_and_end_at_0_whatever_floats_make_of_the_step() -> None:
    for r_max, stages in itertools.product((2 / 3, 0.99, 0.2, 1 / 7, 0.3), range(1, 60)):
        for step in (r_max / stages, r_max / stages * (1 + 1e-8)):
            mask = Mask(r_max=r_max, step=step)
            ratios = Masks(mask.r_max, mask.step).ratios  # type: ignore[arg-type]
            assert ratios[0] == r_max and ratios[-1] == 0 and len(ratios) == stages + 1 == mask.stages
            assert all(before > after for before, after in zip(ratios, ratios[1:]))
