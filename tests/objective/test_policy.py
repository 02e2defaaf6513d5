"""The policy terms: with ratio 1 only the gradient speaks, so gradients are compared with the ones written by hand."""

import pytest
import torch

from masters_edge.objective import policy

LOG_PROBS = torch.tensor([[-1.0, -2.0, -0.5], [-0.7, -3.0, 0.0]])
MASK = torch.tensor([[True, True, True], [True, True, False]])
ADVANTAGES = torch.tensor([1.5, -0.8])


def gradient(term) -> torch.Tensor:
    x = LOG_PROBS.clone().requires_grad_()
    term(x).mean().backward()
    return x.grad


def by_hand(weight: torch.Tensor) -> torch.Tensor:
    """d/dlogp of -mean_j mean_t w * logp."""
    tokens = MASK.sum(-1, keepdim=True)
    return -weight * MASK / tokens / len(LOG_PROBS)


def test_paper_without_kl_is_reinforce_with_the_advantage() -> None:
    none = torch.zeros_like(LOG_PROBS)
    found = gradient(lambda x: policy.paper(x, MASK, ADVANTAGES, none, 0.1))
    torch.testing.assert_close(found, by_hand(ADVANTAGES[:, None].expand_as(LOG_PROBS)))
    value = policy.paper(LOG_PROBS, MASK, ADVANTAGES, none, 0.1)
    torch.testing.assert_close(value, -ADVANTAGES)  # ratio 1: says nothing about the policy


def test_paper_adds_beta_times_the_kl_per_token() -> None:
    kl = torch.tensor([[0.2, 0.4, 0.6], [1.0, 3.0, 99.0]])
    value = policy.paper(LOG_PROBS, MASK, torch.zeros(2), kl, 0.1)
    torch.testing.assert_close(value, torch.tensor([0.04, 0.2]))


def test_positive_never_pushes_away() -> None:
    found = gradient(lambda x: policy.positive(x, MASK, ADVANTAGES))
    torch.testing.assert_close(found, by_hand(torch.tensor([[1.5] * 3, [0.0] * 3])))


def test_truncated_importance_weight_is_at_most_one_and_carries_no_gradient() -> None:
    initial = LOG_PROBS + torch.tensor([[0.5, -0.5, 0.0], [1.0, -2.0, 0.0]])
    found = gradient(lambda x: policy.truncated_is(x, MASK, ADVANTAGES, initial))
    weight = (LOG_PROBS - initial).exp().clamp(max=1) * ADVANTAGES[:, None]
    torch.testing.assert_close(found, by_hand(weight))
    assert weight[0, 1] == ADVANTAGES[0]


@pytest.mark.parametrize("term", [policy.positive, policy.truncated_is])
def test_zero_advantage_teaches_nothing(term) -> None:
    extra = (LOG_PROBS,) if term is policy.truncated_is else ()
    assert not gradient(lambda x: term(x, MASK, torch.zeros(2), *extra)).any()
