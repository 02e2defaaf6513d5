"""The text side families share: token embedding, and text model with head, its KV cache as plain inputs and outputs.

A family says where its text model lies in the student (`path`, dotted), and out come parts named and shaped as
transformers.js expects them (CONTRACTS). Works for the Llama, Qwen2 and Qwen3 text models and their multimodal kin.
"""

import inspect
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from masters_edge.export.graphs import Part
from masters_edge.export.student import LoadedStudent

_DYNAMIC = torch.export.Dim.DYNAMIC


class Embed(nn.Module):
    """input_ids int64 [batch, tokens] -> inputs_embeds float32 [batch, tokens, hidden]."""

    def __init__(self, embed_tokens: nn.Module) -> None:
        super().__init__()
        self.embed_tokens = embed_tokens

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.embed_tokens(input_ids)


class Decoder(nn.Module):
    """Text model and head with the KV cache as plain inputs and outputs, key and value of each layer in turn.

    inputs_embeds float32 [batch, tokens, hidden], attention_mask int64 [batch, past + tokens], position_ids int64
    [batch, tokens] or [3, batch, tokens], past: list of float32 [batch, kv_heads, past, head_size] -> logits float32
    [batch, tokens, vocab], then the same list grown by `tokens`.
    """

    def __init__(self, text_model: Any, lm_head: nn.Module) -> None:
        super().__init__()
        self.text_model = text_model
        self.lm_head = lm_head
        parameters = inspect.signature(type(text_model).forward).parameters
        self.cache_argument = "cache" if "cache" in parameters else "past_key_values"

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        cache = _cache(past)
        hidden = self.run(inputs_embeds, attention_mask, position_ids, cache)
        present = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]  # type: ignore[union-attr]
        return (self.lm_head(hidden), *present)

    def run(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        cache: DynamicCache,
    ) -> torch.Tensor:
        """The text model's last hidden states; a family that carries more in its embeddings says here what becomes
        of it."""
        return self.text_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=True,
            **{self.cache_argument: cache},
        ).last_hidden_state


def _cache(past: list[torch.Tensor]) -> DynamicCache:
    """A cache that starts with `past`, without the empty concatenation that transformers begins with."""
    cache = DynamicCache()
    for keys, values in zip(past[::2], past[1::2]):
        layer = DynamicLayer()
        layer.keys, layer.values = keys, values
        layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True  # type: ignore[attr-defined]
        cache.layers.append(layer)
    return cache


def embed_part(student: LoadedStudent, path: str, module: nn.Module | None = None, width: int | None = None) -> Part:
    """`path`: the student's text model. `module` in place of `Embed` must keep its `embed_tokens`; `width` is the last
    dimension of what it gives, unless that is the hidden size."""
    text_model = student.model.get_submodule(path)
    return Part(
        name="embed_tokens",
        module=module or Embed(text_model.embed_tokens),
        example=(torch.ones(2, 7, dtype=torch.long),),
        dynamic=({0: _DYNAMIC, 1: _DYNAMIC},),
        inputs=["input_ids"],
        outputs=["inputs_embeds"],
        dimensions={
            "input_ids": ["batch_size", "sequence_length"],
            "inputs_embeds": ["batch_size", "sequence_length", width or text_model.config.hidden_size],
        },
        prefixes={"embed_tokens": f"{path}.embed_tokens"},
    )


def decoder_part(
    student: LoadedStudent,
    path: str,
    module: nn.Module | None = None,
    width: int | None = None,
    axes: tuple[int, ...] = (),
) -> Part:
    """`path`: the student's text model, whose head is `lm_head`. `module` in place of `Decoder` must keep its names.

    `width` is the last dimension of `inputs_embeds`, unless that is the hidden size. `axes` comes before batch and
    tokens in `position_ids`: () for [batch, tokens], (3,) for M-RoPE's [3, batch, tokens].
    """
    text_model = student.model.get_submodule(path)
    config = text_model.config
    heads = config.num_key_value_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = width or config.hidden_size
    batch, tokens, past = 2, 3, 5
    names = [f"{layer}.{which}" for layer in range(config.num_hidden_layers) for which in ("key", "value")]
    mask = torch.ones(batch, past + tokens, dtype=torch.long)
    # A slice of `positions` must be made contiguous, or its strides are baked into the program.
    positions = torch.arange(past + tokens).repeat(*axes, batch, 1)[..., past:].contiguous()
    steps: list[int | str] = ["batch_size", "sequence_length"]
    return Part(
        name="decoder",
        module=module or Decoder(text_model, student.model.lm_head),
        example=(
            torch.randn(batch, tokens, width),
            mask,
            positions,
            [torch.randn(batch, heads, past, head_size) for _ in names],
        ),
        dynamic=(
            {0: _DYNAMIC, 1: _DYNAMIC},
            {0: _DYNAMIC, 1: _DYNAMIC},
            {len(axes): _DYNAMIC, len(axes) + 1: _DYNAMIC},
            [{0: _DYNAMIC, 2: _DYNAMIC}] * len(names),
        ),
        inputs=["inputs_embeds", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in names)],
        outputs=["logits", *(f"present.{name}" for name in names)],
        dimensions={
            "inputs_embeds": [*steps, width],
            "attention_mask": ["batch_size", "total_sequence_length"],
            "position_ids": [*axes, *steps],
            "logits": [*steps, config.vocab_size],
            **{f"past_key_values.{name}": ["batch_size", heads, "past_sequence_length", head_size] for name in names},
            **{f"present.{name}": ["batch_size", heads, "total_sequence_length", head_size] for name in names},
        },
        prefixes={"text_model": path},
    )
