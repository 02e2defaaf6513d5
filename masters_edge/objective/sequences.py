"""Prompts with responses behind them, right-padded, and the logits that predict each response token."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device

from masters_edge.families.base import Family

Batch = dict[str, Any]


def pack(
    prompts: Sequence[list[int]],
    images: Sequence[dict[str, torch.Tensor]],
    responses: Sequence[list[int]],
    owner: Sequence[int],
    pad: int,
) -> Batch:
    """One row per response: `prompts[owner[s]] + responses[s]`.

    Returns:
        `input_ids`, `attention_mask` int64 `[sequences, length]`; `positions` int64 `[sequences, tokens]`, where the
        hidden state stands that predicts each response token (padding repeats position 0); `images`, one entry per
        question; `owner` int64 `[sequences]`.
    """
    rows = [prompts[question] + response for question, response in zip(owner, responses, strict=True)]
    longest, tokens = max(map(len, rows)), max(map(len, responses))
    starts = [len(prompts[question]) - 1 for question in owner]
    return {
        "input_ids": torch.tensor([row + [pad] * (longest - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
        "positions": torch.tensor(
            [
                [start + t if t < len(response) else 0 for t in range(tokens)]
                for start, response in zip(starts, responses)
            ]
        ),
        "images": list(images),
        "owner": torch.tensor(list(owner)),
    }


def pad_responses(responses: Sequence[Sequence[float]], fill: float = 0) -> torch.Tensor:
    """`[sequences, tokens]` of values per response token (ids or log-probabilities), `fill` behind the end."""
    tokens = max(map(len, responses))
    return torch.tensor([list(r) + [fill] * (tokens - len(r)) for r in responses])


def response_mask(responses: Sequence[Sequence[int]]) -> torch.Tensor:
    """bool `[sequences, tokens]`, true on response tokens."""
    lengths = torch.tensor([len(r) for r in responses])
    return torch.arange(int(lengths.max()))[None] < lengths[:, None]


def response_logits(model: Any, family: Family, batch: Batch) -> torch.Tensor:
    """Logits `[sequences, tokens, vocab]` of every response token; only these rows pass through the output head."""
    batch = send_to_device(batch, model.device)
    hidden = family.response_hidden(model, batch["input_ids"], batch["attention_mask"], batch["images"], batch["owner"])
    at = batch["positions"][:, :, None].expand(-1, -1, hidden.shape[-1])
    return model.get_output_embeddings()(hidden.gather(1, at))


def aligned(logits: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Only the tokenizer's own `vocabulary` entries: heads of one family are padded to different sizes."""
    return logits[..., :vocabulary] if logits.shape[-1] > vocabulary else logits


def log_probs(logits: torch.Tensor, response_ids: torch.Tensor) -> torch.Tensor:
    """float32 `[sequences, tokens]`: log-probability of each response token."""
    return torch.log_softmax(logits.float(), dim=-1).gather(-1, response_ids[..., None]).squeeze(-1)
