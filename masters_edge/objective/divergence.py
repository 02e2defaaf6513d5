"""Distillation term (METHOD 4, Eq. 4 and 5): Jensen-Shannon divergence of next-token distributions."""

import math
from dataclasses import dataclass

import torch


def jsd(teacher_logits: torch.Tensor, student_logits: torch.Tensor, beta: float = 0.5) -> torch.Tensor:
    """`JSD_b(P, Q) = b * KL(P || m) + (1 - b) * KL(Q || m)`, `m = b * P + (1 - b) * Q`, natural log.

    Args:
        teacher_logits: `[..., vocab]`, P before softmax.
        student_logits: `[..., vocab]`, Q before softmax.
        beta: weight of P in the mixture, 0 < beta < 1.

    Returns:
        float32 `[...]` (float64 for float64), for beta 0.5 between 0 and ln 2.
    """
    return jsd_of_log_probs(log_softmax(teacher_logits), log_softmax(student_logits), beta)


def jsd_of_log_probs(log_p: torch.Tensor, log_q: torch.Tensor, beta: float = 0.5) -> torch.Tensor:
    """As `jsd`, from finite log-probabilities."""
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    return beta * _relative_entropy(log_p, log_m) + (1 - beta) * _relative_entropy(log_q, log_m)


def truncated_jsd(top: "TopLogProbs", student_logits: torch.Tensor, beta: float = 0.5) -> torch.Tensor:
    """`jsd` where only the teacher's most likely tokens are known: the others count as one token, for both.

    By the data-processing inequality it is at most the whole JSD, and equal to it where k is the vocabulary.

    Args:
        top: the teacher's distribution at each token, `[..., k]`.
        student_logits: `[..., vocab]`.
        beta: as for `jsd`.

    Returns:
        float32 `[...]`.
    """
    log_q = log_softmax(student_logits)
    top_q = log_q.gather(-1, top.ids)
    if top.ids.shape[-1] == student_logits.shape[-1]:
        return jsd_of_log_probs(torch.log_softmax(top.log_probs.float(), dim=-1), top_q, beta)
    rest_q = torch.logsumexp(log_q.scatter(-1, top.ids, -torch.inf), dim=-1, keepdim=True)
    # What was rounded for storage is made to sum to 1 again.
    log_p = torch.log_softmax(torch.cat([top.log_probs.float(), top.rest[..., None].float()], dim=-1), dim=-1)
    return jsd_of_log_probs(log_p, torch.cat([top_q, rest_q], dim=-1), beta)


@dataclass(frozen=True, slots=True)
class TopLogProbs:
    """The k most likely tokens of a distribution: ids int64 and log-probabilities `[..., k]`, and the log of the mass
    that all others share, `[...]`."""

    ids: torch.Tensor
    log_probs: torch.Tensor
    rest: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor, k: int) -> "TopLogProbs":
        """From logits `[..., vocab]`; a rest of nothing counts as exp(-80)."""
        log_probs, ids = log_softmax(logits).topk(min(k, logits.shape[-1]), dim=-1)
        rest = torch.log(-torch.expm1(torch.logsumexp(log_probs, dim=-1).clamp(max=-1e-34)))
        return cls(ids, log_probs, rest.clamp(min=-80.0))

    def __getitem__(self, part: slice) -> "TopLogProbs":
        return TopLogProbs(self.ids[part], self.log_probs[part], self.rest[part])


def kl(p_logits: torch.Tensor, q_logits: torch.Tensor) -> torch.Tensor:
    """`KL(P || Q)` over the vocabulary, natural log: `[..., vocab]` twice to float32 `[...]`."""
    return _relative_entropy(log_softmax(p_logits), log_softmax(q_logits))


def log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """At least in float32, whatever the model's number format."""
    return torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)


def _relative_entropy(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)
