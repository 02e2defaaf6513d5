"""Distillation term (METHOD 4, Eq. 4 and 5): Jensen-Shannon divergence of next-token distributions."""

import math

import torch


def jsd(teacher_logits: torch.Tensor, student_logits: torch.Tensor, beta: float = 0.5) -> torch.Tensor:
    """`JSD_b(P, Q) = b * KL(P || m) + (1 - b) * KL(Q || m)`, `m = b * P + (1 - b) * Q`, natural log.

    Args:
        teacher_logits: `[..., vocab]`, P before softmax.
        student_logits: `[..., vocab]`, Q before softmax.
        beta: weight of P in the mixture, 0 < beta < 1.

    Returns:
        float32 `[...]`, for beta 0.5 between 0 and ln 2.
    """
    log_p = torch.log_softmax(teacher_logits.float(), dim=-1)
    log_q = torch.log_softmax(student_logits.float(), dim=-1)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    kl_p = (log_p.exp() * (log_p - log_m)).sum(-1)
    kl_q = (log_q.exp() * (log_q - log_m)).sum(-1)
    return beta * kl_p + (1 - beta) * kl_q


def kl(p_logits: torch.Tensor, q_logits: torch.Tensor) -> torch.Tensor:
    """`KL(P || Q)` over the vocabulary, natural log: `[..., vocab]` twice to float32 `[...]`."""
    log_p = torch.log_softmax(p_logits.float(), dim=-1)
    log_q = torch.log_softmax(q_logits.float(), dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def token_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over each sequence's response tokens: `[sequences, tokens]` and a mask alike to `[sequences]`."""
    mask = mask.to(values.dtype)
    return (values * mask).sum(-1) / mask.sum(-1).clamp(min=1)
