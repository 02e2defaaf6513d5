"""Whether a decoder can read grouped rows (`sequences.py`): asked of what its attention does, before training.

In: a checkpoint's config, and how many tokens its longest prompt and response have together. A small decoder of the
same class and the same layers, with random weights, reads a response in a row of its own, as the model itself would,
and behind a neighbour in a grouped row. The two are equal where every layer sees all of the prefix and nothing but the
prefix; layers with a window, in chunks, with convolutions or a recurrent state are not, whatever their config calls
them.
"""

from typing import Any

import torch

from masters_edge.common import memo
from masters_edge.common.errors import UserError
from masters_edge.common.quiet import hush, hush_transformers
from masters_edge.objective.sequences import attention_mask

_RESPONSE, _NEIGHBOUR = 8, 3  # tokens
_FAR = 1e-5  # of hidden states of size 1, in float64; norms that compute in float32 leave 1e-7
# What makes a decoder wide and says nothing of which tokens see which.
_NARROW = {
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "vocab_size": 64,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


def check(config: Any, tokens: int, who: str) -> None:
    """Refuse a decoder whose hidden states in grouped rows aren't those of separate sequences.

    Args:
        config: of the whole model.
        tokens: prompt and response together, the longest of the run; a window that is wider does no harm.
        who: the checkpoint and its part, such as "teacher ./large".

    Raises:
        UserError: says which of the two it is, or that the decoder can't be tried.
    """
    try:
        beside, alone = memo.once(
            "attention", lambda: (config.to_json_string(), tokens), lambda: _tried(small(config), tokens)
        )
    except (ValueError, TypeError, RuntimeError, AttributeError, KeyError, IndexError, ImportError) as error:
        raise UserError(
            f"{who}: its decoder ({config.get_text_config().model_type}) can't be tried with responses side by side "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}), which training needs; take a checkpoint "
            "with a decoder of plain attention"
        ) from None
    if beside:
        return
    why = (
        "lets a response see its neighbour (layers with convolutions or a state of their own do)"
        if alone
        else f"doesn't see the whole prefix of {tokens} tokens (a sliding window or chunks of attention)"
    )
    remedy = "a checkpoint whose decoder has plain attention throughout"
    if not alone:
        remedy += ", or shorter prompts (smaller images) and responses.max_new_tokens"
    raise UserError(
        f"{who}: its decoder ({config.get_text_config().model_type}) {why}, so loss, divergences and rewards would be "
        f"computed from other states than the model's own; take {remedy}"
    )


def _tried(decoder: torch.nn.Module, tokens: int) -> tuple[bool, bool]:
    """Whether a response reads in a grouped row as it does by itself: behind a neighbour, and alone."""
    own = _own(decoder, tokens)
    beside = _equal(own, _grouped(decoder, tokens, _NEIGHBOUR))
    return beside, beside or _equal(own, _grouped(decoder, tokens, 0))


def small(config: Any) -> torch.nn.Module:
    """A decoder of the model's class with all of its layers, one narrow head each; random weights, float64."""
    hush()
    from transformers import AutoModel

    hush_transformers()
    text = config.get_text_config()
    values = text.to_dict()
    head = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    narrow = {name: value for name, value in _NARROW.items() if name in values}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = AutoModel.from_config(
            type(text).from_dict({**values, **narrow, "hidden_size": head}), experts_implementation="eager"
        )
        for parameter in decoder.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, 0, 0.2)
    return decoder.double().eval()


def _ids(tokens: int, neighbour: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A row of prompt, neighbour and response: ids, segments and positions, int64 `[1, length]` each."""
    prompt, random = max(1, tokens - _RESPONSE), torch.Generator().manual_seed(0)
    ids = torch.randint(1, 64, (1, prompt + _RESPONSE), generator=random)
    between = torch.randint(1, 64, (1, neighbour), generator=random)
    segments = torch.tensor([[0] * prompt + [1] * neighbour + [2] * _RESPONSE])
    positions = [*range(prompt), *range(prompt, prompt + neighbour), *range(prompt, prompt + _RESPONSE)]
    return torch.cat([ids[:, :prompt], between, ids[:, prompt:]], 1), segments, torch.tensor([positions])


@torch.inference_mode()
def _own(decoder: Any, tokens: int) -> torch.Tensor:
    """The response's hidden states `[1, response, hidden]` as the model itself computes them."""
    ids, _, _ = _ids(tokens, 0)
    found = decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return found.last_hidden_state[:, -_RESPONSE:]


@torch.inference_mode()
def _grouped(decoder: Any, tokens: int, neighbour: int) -> torch.Tensor:
    """The same behind a neighbour of so many tokens, with the mask and the positions of a grouped row."""
    ids, segments, positions = _ids(tokens, neighbour)
    mask = attention_mask(decoder, segments)
    found = decoder(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    return found.last_hidden_state[:, -_RESPONSE:]


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= _FAR * one.abs().max())
