"""Policy term (METHOD 6 and 8), per response token: GRPO on pre-generated responses with ratio 1, and two gentler ones.

One update per batch makes the ratio 1; it stays in the expression as `exp(logp - stop_gradient(logp))`, which carries
the gradient. So the term's value says nothing: log rewards and advantages instead. All tensors are `[tokens]`; the
caller averages over each response's tokens and each question's responses.
"""

import torch


def ratio(log_probs: torch.Tensor) -> torch.Tensor:
    """`exp(logp - stop_gradient(logp))`: 1 everywhere, with the gradient of `log_probs`."""
    return (log_probs - log_probs.detach()).exp()


def paper(log_probs: torch.Tensor, advantages: torch.Tensor, kl_reference: torch.Tensor, beta: float) -> torch.Tensor:
    """Eq. 8: `-[ratio * A - beta * KL(pi || pi_ref)]`.

    Args:
        log_probs: log-probability of each response token under the student.
        advantages: the advantage of the token's response.
        kl_reference: KL to the reference at each token.
        beta: weight of the KL.
    """
    return -(ratio(log_probs) * advantages - beta * kl_reference)


def positive(log_probs: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """`-ratio * max(A, 0)`: pulls towards good responses, pushes away from none."""
    return -ratio(log_probs) * advantages.clamp(min=0)


def truncated_is(log_probs: torch.Tensor, advantages: torch.Tensor, initial_log_probs: torch.Tensor) -> torch.Tensor:
    """`-stop_gradient(min(1, pi / pi_init)) * A * log pi`.

    `initial_log_probs`: the same tokens under the student that stood at the start of the phase.
    """
    weight = (log_probs.detach() - initial_log_probs).exp().clamp(max=1)
    return -weight * advantages * log_probs
