"""The policy terms: with ratio 1 only the gradient speaks, so gradients are compared with the ones written by hand."""

import pytest
import torch

from masters_edge.objective import policy

LOG_PROBS = torch.tensor([-1.0, -2.0, -0.5, -0.7, -3.0])
ADVANTAGES = torch.tensor([1.5, 1.5, 1.5, -0.8, -0.8])


def gradient(term) -> torch.Tensor:
    x = LOG_PROBS.clone().requires_grad_()
    term(x).sum().backward()
    return x.grad


def test_paper_without_kl_is_reinforce_with_the_advantage() -> None:
    none = torch.zeros_like(LOG_PROBS)
    torch.testing.assert_close(gradient(lambda x: policy.paper(x, ADVANTAGES, none, 0.1)), -ADVANTAGES)
    value = policy.paper(LOG_PROBS, ADVANTAGES, none, 0.1)
    torch.testing.assert_close(value, -ADVANTAGES)  # ratio 1: says nothing about the policy


def test_paper_adds_beta_times_the_kl() -> None:
    kl = torch.tensor([0.2, 0.4, 0.6, 1.0, 3.0])
    torch.testing.assert_close(policy.paper(LOG_PROBS, torch.zeros(5), kl, 0.1), 0.1 * kl)


def test_positive_never_pushes_away() -> None:
    found = gradient(lambda x: policy.positive(x, ADVANTAGES))
    torch.testing.assert_close(found, torch.tensor([-1.5, -1.5, -1.5, 0.0, 0.0]))


def test_truncated_importance_weight_is_at_most_one_and_carries_no_gradient() -> None:
    initial = LOG_PROBS + torch.tensor([0.5, -0.5, 0.0, 1.0, -2.0])
    found = gradient(lambda x: policy.truncated_is(x, ADVANTAGES, initial))
    weight = (LOG_PROBS - initial).exp().clamp(max=1) * ADVANTAGES
    torch.testing.assert_close(found, -weight)
    assert weight[1] == ADVANTAGES[1]


@pytest.mark.parametrize("term", [policy.positive, policy.truncated_is])
def test_zero_advantage_teaches_nothing(term) -> None:
    extra = (LOG_PROBS,) if term is policy.truncated_is else ()
    assert not gradient(lambda x: term(x, torch.zeros(5), *extra)).any()
