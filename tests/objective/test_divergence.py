"""JSD and KL against plain float64 arithmetic written out independently, and against TRL's loss."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masters_edge.objective.divergence import TopLogProbs, jsd, kl, truncated_jsd


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
    expected = plain_jsd(softmax(a), softmax(b), beta)
    assert jsd(torch.tensor(a), torch.tensor(b), beta).item() == pytest.approx(expected, abs=1e-12)
    assert jsd(torch.tensor(a).float(), torch.tensor(b).float(), beta).item() == pytest.approx(expected, abs=2e-6)


def test_jsd_bounds_and_symmetry() -> None:
    a, b = torch.tensor([50.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 50.0])
    assert jsd(a, a).item() == pytest.approx(0, abs=1e-7)
    assert jsd(a, b).item() == pytest.approx(math.log(2), abs=1e-6)
    c, d = torch.randn(2, 9)
    assert jsd(c, d).item() == pytest.approx(jsd(d, c).item(), abs=1e-6)


@pytest.mark.parametrize("beta", [0.5, 0.2])
def test_jsd_agrees_with_trl(beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    torch.manual_seed(0)
    teacher, student = torch.randn(2, 3, 7, 50) * 3
    labels = torch.randint(0, 50, (3, 7))
    labels[1, 3:] = -100
    ours, theirs = student.clone().requires_grad_(), student.clone().requires_grad_()
    value = jsd(teacher, ours, beta)[labels != -100].mean()
    expected = GKDTrainer.generalized_jsd_loss(theirs, teacher, labels, beta=beta)
    torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-7, rtol=1e-5)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_truncated_jsd_merges_the_rest_into_one_token(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 3, (2, 30))
    p, q = softmax(a), softmax(b)
    kept = np.argsort(-p)[:k]
    merged = [np.append(x[kept], np.delete(x, kept).sum()) if k < 30 else x[kept] for x in (p, q)]
    top = TopLogProbs.of(torch.tensor(a), k)
    found = truncated_jsd(top, torch.tensor(b)).item()
    assert found == pytest.approx(plain_jsd(*merged, 0.5), abs=1e-5)
    assert found <= plain_jsd(p, q, 0.5) + 1e-5


def test_all_of_the_vocabulary_loses_nothing_and_its_gradient_is_right() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 5, 20)
    for k in (20, 99):
        ours, plain = student.clone().requires_grad_(), student.clone().requires_grad_()
        value, expected = truncated_jsd(TopLogProbs.of(teacher, k), ours), jsd(teacher, plain)
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
        value.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(ours.grad, plain.grad, atol=1e-6, rtol=1e-4)


def test_a_certain_teacher_has_no_rest_and_no_nan() -> None:
    teacher = torch.tensor([[100.0, 0.0, 0.0, 0.0]])
    student = torch.zeros(1, 4, requires_grad=True)
    value = truncated_jsd(TopLogProbs.of(teacher, 2), student)
    value.sum().backward()
    assert value.isfinite().all() and student.grad.isfinite().all()
    assert value.item() == pytest.approx(jsd(teacher, student).item(), abs=1e-5)


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
