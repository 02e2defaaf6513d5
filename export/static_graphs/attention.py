"""The encoder layers that several vision encoders share, written plainly: no mask, every patch sees every patch."""

from typing import Any

import torch
from torch.nn import functional


def siglip_layers(layers: Any, hidden: torch.Tensor) -> torch.Tensor:
    """SigLIP's encoder layers (SmolVLM, Idefics3, LLaVA-OneVision): float32 [1, patches, hidden] -> the same."""
    for layer in layers:
        own = layer.self_attn
        normed = layer.layer_norm1(hidden)
        projections = (own.q_proj(normed), own.k_proj(normed), own.v_proj(normed))
        hidden = hidden + own.out_proj(attend(*projections, own.num_heads))
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    return hidden


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax attention of [1, patches, heads x head_size] each; `mask` is added to the scores."""
    _, patches, width = query.shape
    query, key, value = (
        states.view(1, patches, heads, width // heads).transpose(1, 2) for states in (query, key, value)
    )
    found = attention_of(query, key, value, mask)
    return found.transpose(1, 2).reshape(1, patches, width)


def attention_of(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """softmax(query key^T / sqrt(head_size) + mask) value, all [1, heads, rows, head_size].

    The copy fixes the result's layout: a lowering that takes the operator apart lays it out otherwise than PyTorch.
    """
    found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return found.clone(memory_format=torch.contiguous_format)
