"""Policy term (METHOD 6 and 8): GRPO on pre-generated responses, with ratio 1, and two gentler variants.

One update per batch makes the ratio 1; it stays in the expression as `exp(logp - stop_gradient(logp))`, which carries
the gradient. So the term's value says nothing: log rewards and advantages instead.
"""

import torch

from masters_edge.objective.divergence import token_mean


def ratio(log_probs: torch.Tensor) -> torch.Tensor:
    """`exp(logp - stop_gradient(logp))`: 1 everywhere, with the gradient of `log_probs`."""
    return (log_probs - log_probs.detach()).exp()


def paper(
    log_probs: torch.Tensor, mask: torch.Tensor, advantages: torch.Tensor, kl_reference: torch.Tensor, beta: float
) -> torch.Tensor:
    """Eq. 8 per response, `-mean_t [ratio * A - beta * KL(pi || pi_ref)]`.

    Args:
        log_probs: `[sequences, tokens]` log-probability of each response token under the student.
        mask: `[sequences, tokens]`, true on response tokens.
        advantages: `[sequences]`.
        kl_reference: `[sequences, tokens]` KL to the reference.
        beta: weight of the KL.

    Returns:
        `[sequences]`; the caller averages over each question's responses.
    """
    return -token_mean(ratio(log_probs) * advantages[:, None] - beta * kl_reference, mask)


def positive(log_probs: torch.Tensor, mask: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """`-mean_t [ratio * max(A, 0)]` per response: pulls towards good responses, pushes away from none."""
    return -token_mean(ratio(log_probs) * advantages.clamp(min=0)[:, None], mask)


def truncated_is(
    log_probs: torch.Tensor, mask: torch.Tensor, advantages: torch.Tensor, initial_log_probs: torch.Tensor
) -> torch.Tensor:
    """`-mean_t [stop_gradient(min(1, pi / pi_init)) * A * log pi]` per response.

    `initial_log_probs` `[sequences, tokens]`: the same tokens under the student that stood at the start of the phase.
    """
    weight = (log_probs.detach() - initial_log_probs).exp().clamp(max=1)
    return -token_mean(weight * advantages[:, None] * log_probs, mask)
