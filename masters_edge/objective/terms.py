"""The loss of a phase (METHOD 6 and 8), token by token: which terms it has, and how they add up.

In: a chunk's logits and what is known of its tokens. Out: the chunk's share of the loss. Everything is a sum over
response tokens, each weighted so that the sum is the mean over a response's tokens, over a question's responses, over
questions; so it doesn't matter how the tokens are cut into chunks or spread over processes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from masters_edge.objective import policy
from masters_edge.objective.divergence import TopLogProbs, jsd, kl, log_softmax, truncated_jsd
from masters_edge.recipe.schema import Phase, Reward

LogitsOf = Callable[[slice], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The response tokens of a batch, the responses in order, all `[tokens]`.

    `weights` float32 sum to 1 over the batch. `advantages` and `initial_log_probs` stay away where no policy term asks.
    An advantage is 0 in a group whose rewards are all alike, and for a response that nobody could score: of the policy
    term only the KL is left there (Eq. 8).
    """

    ids: torch.Tensor
    weights: torch.Tensor
    advantages: torch.Tensor | None = None
    initial_log_probs: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Objective:
    """The terms of one phase's loss.

    `teacher`: logits of the teacher for a slice of tokens, or its stored most likely tokens. `reference`: logits of
    pi_ref (`reward.reference`), where the paper's policy term has its KL.
    """

    phase: Phase
    reward: Reward
    tokens: Tokens
    teacher: LogitsOf | TopLogProbs | None = None
    reference: LogitsOf | None = None

    def __call__(self, logits: torch.Tensor, part: slice) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of the tokens in `part`, summed with their weights, and each term's sum, over the tokens that the loss
        has it of.

        `logits`: `[n, vocab]` of the student.
        """
        weights, terms = self.tokens.weights[part], {}
        log_probs = log_softmax(logits).gather(-1, self.tokens.ids[part, None]).squeeze(-1)
        loss = logits.new_zeros((), dtype=log_probs.dtype)
        if self.phase.objective == "labels":
            terms["loss"] = loss = -(weights * log_probs).sum()
        if self.phase.objective in ("joint", "distill"):
            terms["jsd"] = (weights * self.divergence(logits, part)).sum()
            loss = loss + terms["jsd"]
        if self.phase.objective in ("joint", "reward"):
            to_reference = torch.zeros_like(log_probs)
            if self.reference is not None:
                to_reference = kl(logits, self.reference(part))
                terms["kl_reference"] = (weights * to_reference).sum()
            loss = loss + self.reward.weight * (weights * self._policy(log_probs, to_reference, part)).sum()
        return loss, {**terms, "loss": loss}

    def divergence(self, logits: torch.Tensor, part: slice) -> torch.Tensor:
        """JSD to the teacher `[n]` at the tokens in `part`; `logits` `[n, vocab]` of the student."""
        assert self.teacher is not None
        if isinstance(self.teacher, TopLogProbs):
            return truncated_jsd(self.teacher[part], logits)
        return jsd(self.teacher(part), logits)

    def _policy(self, log_probs: torch.Tensor, to_reference: torch.Tensor, part: slice) -> torch.Tensor:
        assert self.tokens.advantages is not None
        advantages = self.tokens.advantages[part]
        if self.reward.policy == "positive":
            return policy.positive(log_probs, advantages)
        if self.reward.policy == "truncated_is":
            assert self.tokens.initial_log_probs is not None
            return policy.truncated_is(log_probs, advantages, self.tokens.initial_log_probs[part])
        return policy.paper(log_probs, advantages, to_reference, self.reward.kl_beta)
