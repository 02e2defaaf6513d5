"""JSD and KL against plain float64 arithmetic, written out independently."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masters_edge.objective.divergence import jsd, kl, token_mean


def plain_jsd(p: np.ndarray, q: np.ndarray, beta: float) -> float:
    m = beta * p + (1 - beta) * q
    return beta * float(np.sum(p * np.log(p / m))) + (1 - beta) * float(np.sum(q * np.log(q / m)))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.floats(0.05, 0.95), st.floats(0.1, 8))
def test_jsd_equals_plain_arithmetic(seed: int, vocabulary: int, beta: float, width: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, width, (2, vocabulary))
    found = jsd(torch.tensor(a), torch.tensor(b), beta).item()
    assert found == pytest.approx(plain_jsd(softmax(a), softmax(b), beta), abs=2e-6)


def test_jsd_bounds_and_symmetry() -> None:
    a, b = torch.tensor([50.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 50.0])
    assert jsd(a, a).item() == pytest.approx(0, abs=1e-7)
    assert jsd(a, b).item() == pytest.approx(math.log(2), abs=1e-6)
    c, d = torch.randn(2, 9)
    assert jsd(c, d).item() == pytest.approx(jsd(d, c).item(), abs=1e-6)


def test_kl_gradient_is_right() -> None:
    torch.manual_seed(0)
    p, q = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)

    def plain(x: torch.Tensor) -> float:
        a, b = softmax(x.numpy()), softmax(q.numpy())
        return float(np.sum(a * np.log(a / b)))

    x = p.float().requires_grad_()
    kl(x, q).backward()
    for i in range(5):
        nudge = torch.zeros(5, dtype=torch.float64)
        nudge[i] = 1e-6
        assert x.grad[i].item() == pytest.approx((plain(p + nudge) - plain(p - nudge)) / 2e-6, abs=1e-5)


def test_token_mean_counts_response_tokens_only() -> None:
    values = torch.tensor([[1.0, 2.0, 99.0], [4.0, 99.0, 99.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert token_mean(values, mask).tolist() == [1.5, 4.0]
