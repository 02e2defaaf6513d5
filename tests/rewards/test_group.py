"""A group's rewards from what is stored of it: what counts, what is left out, and who carries an advantage."""

import numpy as np
import pytest

from masters_edge import rewards
from masters_edge.recipe.schema import Reward


def row(jsd: float, r_acc: float | None, scorer: str | None = "rule:exact_match", count: int = 1) -> dict:
    return {"jsd": jsd, "r_acc": r_acc, "scorer": scorer, "count": count}


def test_the_sum_of_what_counts() -> None:
    group = [row(0.1, 1.0, count=3), row(0.3, 0.0), row(0.5, 0.0)]
    np.testing.assert_allclose(rewards.score(group, Reward()).reward, [2.0, 0.5, 0.0])
    np.testing.assert_allclose(rewards.score(group, Reward(accuracy=False)).reward, [1.0, 0.5, 0.0])
    np.testing.assert_allclose(rewards.score(group, Reward(distillation=False)).reward, [1.0, 0.0, 0.0])
    np.testing.assert_allclose(rewards.score(group, Reward(min_max=False)).reward, [0.9, -0.3, -0.5])
    both = rewards.score(group, Reward())
    spread = np.array([2.0, 2.0, 2.0, 0.5, 0.0])
    np.testing.assert_allclose(both.advantage, (np.array([2.0, 0.5, 0.0]) - spread.mean()) / spread.std())


def test_another_student_gives_other_divergences() -> None:
    found = rewards.score([row(0.1, 1.0), row(0.3, 1.0)], Reward(), np.array([0.4, 0.2]))
    np.testing.assert_allclose(found.r_distill, [0.0, 1.0])
    assert found.advantage[1] > 0 > found.advantage[0]


def test_a_response_its_judge_failed_on_is_left_out_and_no_zero() -> None:
    found = rewards.score([row(0.1, 1.0), row(0.2, None, "judge:big"), row(0.3, 0.0)], Reward(distillation=False))
    assert found.counted.tolist() == [True, False, True]
    np.testing.assert_allclose(found.advantage, [1.0, 0.0, -1.0])  # as if it weren't there
    nobody = rewards.score([row(0.1, None, "judge:big"), row(0.4, None, "judge:big")], Reward())
    assert not nobody.advantage.any() and not nobody.counted.any()
    assert rewards.score([row(0.1, None, "judge:big")], Reward(accuracy=False)).counted.all()


def test_without_a_label_closeness_alone_decides() -> None:
    found = rewards.score([row(0.1, None, None), row(0.2, None, None)], Reward())
    np.testing.assert_allclose(found.reward, [1.0, 0.0])


@pytest.mark.parametrize("group", [[row(0.2, 1.0, count=8)], [row(0.2, 1.0), row(0.2, 1.0)]])
def test_groups_all_alike_carry_nothing(group: list[dict]) -> None:
    found = rewards.score(group, Reward())
    assert not found.advantage.any() and found.counted.all()


def test_a_response_nobody_could_score_sets_no_bound_of_the_others() -> None:
    found = rewards.score([row(0.1, 1.0), row(0.3, 1.0), row(0.69, None, "judge:big")], Reward())
    np.testing.assert_allclose(found.r_distill, [1.0, 0.0, 0.0])
    np.testing.assert_allclose(found.advantage, [1.0, -1.0, 0.0])


@pytest.mark.parametrize("min_max", [True, False])
def test_a_response_of_no_tokens_is_the_furthest_and_sets_no_bound(min_max: bool) -> None:
    found = rewards.score(
        [row(0.1, 1.0), row(0.3, 0.0), row(None, 0.0, "rule:empty")],  # type: ignore[arg-type]
        Reward(min_max=min_max),
    )
    np.testing.assert_allclose(found.r_distill, [1.0, 0.0, 0.0] if min_max else [-0.1, -0.3, -np.log(2)])
    assert found.counted.all() and found.advantage[2] < 0 and np.isfinite(found.advantage).all()
    alone = rewards.score([row(None, 0.0, "rule:empty")], Reward(min_max=min_max))  # type: ignore[arg-type]
    assert alone.advantage.tolist() == [0.0]


@pytest.mark.parametrize("min_max", [True, False])
def test_noise_of_rounding_is_no_advantage(min_max: bool) -> None:
    """Equal but for what floats lose: nobody is better."""
    noise = [row(0.25, 1.0), row(0.25 + 1e-9, 1.0), row(0.25 - 1e-9, 1.0)]
    assert not rewards.score(noise, Reward(min_max=min_max)).advantage.any()
    assert rewards.score([row(0.25, 1.0), row(0.25 + 2e-6, 1.0)], Reward(min_max=min_max)).advantage.any()
