"""The grouped forward: a question's responses share one image, one prompt and one row.

A row holds the prompt and, one behind another, the tokens of all its responses. A block mask lets each response see the
prompt and itself alone, and its positions start again where the prompt ends, so every hidden state is the one that the
same response would have in a row of its own, at a fraction of the work. Teacher, student and reference all read rows.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device

from masters_edge.families.base import Family

Batch = dict[str, Any]
PADDING = -1  # segment of a column that nothing attends to


def pack(
    prompts: Sequence[list[int]],
    images: Sequence[dict[str, torch.Tensor]],
    responses: Sequence[list[int]],
    owner: Sequence[int],
    pad: int,
) -> Batch:
    """One row per question: `prompts[q]`, then each response `s` with `owner[s] == q`, without its last token.

    The last token predicts nothing; every other token, and the prompt's last, predicts the next one of its response. A
    response of no tokens takes no place.

    Returns:
        `input_ids` int64 `[rows, length]`; `segments` int64 `[rows, length]`, 0 in the prompt, 1, 2, ... in the row's
        responses, -1 in the padding behind; `offsets` int64 `[rows, length]`, a token's place in its response;
        `at_row`, `at_column` int64 `[tokens]`, where the hidden state stands that predicts each response token, the
        responses in order; `images`, one entry per row.
    """
    rows = [list(prompt) for prompt in prompts]
    segments = [[0] * len(prompt) for prompt in prompts]
    offsets = [[0] * len(prompt) for prompt in prompts]
    at_row: list[int] = []
    at_column: list[int] = []
    for response, question in zip(responses, owner, strict=True):
        start, row = len(rows[question]), rows[question]
        at_row += [question] * len(response)
        at_column += [len(prompts[question]) - 1, *range(start, start + len(response) - 1)][: len(response)]
        row += response[:-1]
        segments[question] += [segments[question][-1] + 1] * (len(response) - 1)
        offsets[question] += range(len(response) - 1)
    return {
        "input_ids": _right_padded(rows, pad),
        "segments": _right_padded(segments, PADDING),
        "offsets": _right_padded(offsets, 0),
        "at_row": torch.tensor(at_row, dtype=torch.int64),
        "at_column": torch.tensor(at_column, dtype=torch.int64),
        "images": list(images),
    }


def block_mask(segments: torch.Tensor) -> torch.Tensor:
    """bool `[rows, 1, length, length]`, true where a token may look: backwards, at the prompt and its own response.

    Padding looks at itself, so that no row of the attention is empty.
    """
    length = segments.shape[1]
    query, key = segments[:, :, None], segments[:, None, :]
    backwards = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    allowed = backwards & (key != PADDING) & ((key == 0) | (key == query))
    return (allowed | torch.eye(length, dtype=torch.bool, device=segments.device))[:, None]


def response_hidden(model: Any, family: Family, batch: Batch, images: dict[str, Any] | None = None) -> torch.Tensor:
    """Hidden states `[tokens, hidden]` that predict each response token, the responses in order.

    `images`: the rows' images as the model takes them, where they needn't be collated from the batch.

    Raises:
        ValueError: the decoder's attention takes no mask of our own (only `sdpa` and `eager` do).
    """
    batch = send_to_device(batch, model.device)
    input_ids, segments = batch["input_ids"], batch["segments"]
    images = family.collate_images(batch["images"]) if images is None else images
    in_prompt = (segments == 0).long()
    longest = int(in_prompt.sum(-1).max())
    prompt = family.positions(model, input_ids[:, :longest], in_prompt[:, :longest], images)
    behind = prompt.masked_fill(in_prompt[:, :longest] == 0, -1).amax((0, 2)) + 1  # [rows], where responses start
    responses = (behind[:, None] + batch["offsets"]).expand(prompt.shape[0], *input_ids.shape)
    prompt = torch.nn.functional.pad(prompt, (0, input_ids.shape[1] - longest))
    positions = torch.where(segments == 0, prompt, responses)
    hidden = family.hidden(model, input_ids, attention_mask(model, segments), positions, images)
    return hidden[batch["at_row"], batch["at_column"]]


def response_slices(responses: Sequence[Sequence[int]]) -> list[slice]:
    """Where each response's tokens lie among all `[tokens]`."""
    ends = list(itertools.accumulate(map(len, responses)))
    return [slice(end - len(response), end) for end, response in zip(ends, responses)]


def response_means(values: torch.Tensor, responses: Sequence[Sequence[int]]) -> torch.Tensor:
    """Mean over each response's tokens, NaN where it has none: `[tokens]` to `[responses]`."""
    return torch.stack([values[part].mean() for part in response_slices(responses)])


def attention_mask(model: Any, segments: torch.Tensor) -> torch.Tensor:
    """`block_mask` in the form that the model's attention takes."""
    implementation = model.config.get_text_config()._attn_implementation
    mask = block_mask(segments)
    if implementation == "sdpa":
        return mask
    if implementation == "eager":
        floor = torch.finfo(model.dtype).min
        return torch.zeros_like(mask, dtype=model.dtype).masked_fill(~mask, floor)
    raise ValueError(f"the grouped forward needs attention `sdpa` or `eager`, not {implementation!r}")


def _right_padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])
