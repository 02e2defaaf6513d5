"""Sampling whose outcome depends on the question and the seed alone, not on the batch it happens to be in.

transformers' generate samples from one random stream for the whole batch. Here every row draws from a stream of its
own, keyed by what the row is; transformers still does the decoding, the KV cache and the warping of the scores.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from masters_edge.recipe.schema import Responses


def row_seed(*what: Any) -> int:
    """64-bit key of one row: equal for equal `what`, on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest(), "big")


class RepetitionPenalty(RepetitionPenaltyLogitsProcessor):
    """transformers' repetition penalty, blind to left padding: how far a row is padded depends on its batch."""

    def __init__(self, penalty: float, attention_mask: torch.Tensor) -> None:
        super().__init__(penalty)
        self.padding = attention_mask == 0  # bool [rows, prompt]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen, prompt = input_ids.clone(), self.padding.shape[1]
        seen[:, :prompt] = torch.where(self.padding, input_ids[:, prompt - 1 : prompt], input_ids[:, :prompt])
        return super().__call__(seen, scores)


def warpers(sampling: Responses, attention_mask: torch.Tensor) -> LogitsProcessorList:
    """Repetition penalty, temperature, top-k and top-p in the order transformers applies them.

    `attention_mask`: int64 `[rows, prompt]` of the left-padded prompts.
    """
    chosen = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        chosen.append(RepetitionPenalty(sampling.repetition_penalty, attention_mask))
    if sampling.temperature != 1:
        chosen.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        chosen.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chosen.append(TopPLogitsWarper(sampling.top_p))
    return chosen


class SeededSampling(LogitsProcessor):
    """Leaves one token per row, drawn by inverting the cumulative distribution at that row's own uniform number.

    Put last, behind the warpers: the token that is left is the sample, however it is then drawn.
    """

    def __init__(self, seeds: list[int], prompt_length: int, max_new_tokens: int) -> None:
        self.prompt_length = prompt_length
        self.uniforms = torch.from_numpy(
            np.stack([np.random.Generator(np.random.Philox(key=seed)).random(max_new_tokens) for seed in seeds])
        )  # float64 [rows, max_new_tokens]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` `[rows, vocab]` to the same shape, -inf everywhere but at the drawn token."""
        step = input_ids.shape[1] - self.prompt_length
        ordered, tokens = torch.sort(scores.double(), dim=-1, descending=True, stable=True)
        cumulative = torch.softmax(ordered, dim=-1).cumsum(-1)
        uniform = self.uniforms[:, step : step + 1].to(scores.device) * cumulative[:, -1:]
        place = torch.searchsorted(cumulative, uniform, right=True).clamp(max=scores.shape[-1] - 1)
        chosen = tokens.gather(-1, place)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)
