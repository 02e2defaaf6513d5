"""Text model and head as one static program: fixed context, KV cache in buffers, additive mask, no transformers code.

In: embeddings of `tokens` new tokens (1 for decode, CHUNK for prefill), the mask over the whole context, positions, and
where in the cache the new tokens go. Out: logits. Covers the text models of every family here (Llama, Qwen2, Qwen3 and
the Qwen-VLs'), whose layers differ only in what they have: biases, norms of queries and keys, three position axes,
DeepStack features behind the embeddings.
"""

from typing import Any

import torch
from torch import nn

from masters_edge.export.static_graphs.attention import attention_of

NO = -1e4  # added to the score of what must not be seen; stays finite in float16


class Decoder(nn.Module):
    """inputs_embeds float32 [1, tokens, width], attention_mask float32 [1, 1, tokens, context] (0 seen, NO not),
    position_ids int [axes, 1, tokens], cache_position int [1] (the first new token's place) ->
    logits float32 [1, tokens, vocab]; the buffers `keys_<layer>`, `values_<layer>` [1, kv_heads, context, head_size]
    take up the new tokens' keys and values.

    `width` is hidden size x (1 + DeepStack layers): behind a token's embedding stand its DeepStack features.
    """

    cosines: torch.Tensor
    sines: torch.Tensor
    chosen: torch.Tensor

    def __init__(self, text: Any, head: nn.Module, context: int) -> None:
        super().__init__()
        config = text.config
        self.layers, self.norm, self.lm_head = text.layers, text.norm, head
        self.hidden = config.hidden_size
        self.kv_heads = config.num_key_value_heads
        self.group = config.num_attention_heads // self.kv_heads
        self.head_size = getattr(config, "head_dim", None) or self.hidden // config.num_attention_heads
        self.context = context
        self.axes = 3 if hasattr(text.rotary_emb, "mrope_section") else 1
        cosines, sines, chosen = _rotary_tables(text.rotary_emb, self.axes, context)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)
        self.register_buffer("chosen", chosen, persistent=False)
        for layer in range(len(self.layers)):
            for name in ("keys", "values"):
                self.register_buffer(f"{name}_{layer}", torch.zeros(1, self.kv_heads, context, self.head_size))

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        cache_position: torch.Tensor,
    ) -> torch.Tensor:
        hidden, *deepstack = inputs_embeds.split(self.hidden, dim=-1)
        rotary = self._rotary(position_ids)
        # Query heads that share a key head are stacked as further queries, so that the cache is never copied.
        mask = attention_mask.repeat(1, 1, self.group, 1)
        start = cache_position.item()
        torch._check(start >= 0)
        torch._check(start + inputs_embeds.shape[1] <= self.context)
        for index, layer in enumerate(self.layers):
            attended = self._attention(layer.self_attn, _rms(layer.input_layernorm, hidden), rotary, mask, index, start)
            hidden = hidden + attended
            hidden = hidden + _mlp(layer.mlp, _rms(layer.post_attention_layernorm, hidden))
            if index < len(deepstack):
                hidden = hidden + deepstack[index]
        return self.lm_head(_rms(self.norm, hidden))

    def _rotary(self, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines [1, 1, tokens, head_size]: looked up, for angles computed in float16 would be far off."""
        cosines, sines = self.cosines[position_ids], self.sines[position_ids]  # [axes, 1, tokens, head_size]
        if self.axes > 1:
            cosines, sines = (cosines * self.chosen).sum(0, keepdim=True), (sines * self.chosen).sum(0, keepdim=True)
        return cosines, sines

    def _attention(
        self,
        attention: Any,
        hidden: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        index: int,
        start: Any,
    ) -> torch.Tensor:
        tokens = hidden.shape[1]
        heads = self.kv_heads * self.group
        query = attention.q_proj(hidden).view(1, tokens, heads, self.head_size).transpose(1, 2)
        key, value = (
            projection(hidden).view(1, tokens, self.kv_heads, self.head_size).transpose(1, 2)
            for projection in (attention.k_proj, attention.v_proj)
        )
        if hasattr(attention, "q_norm"):
            query, key = _rms(attention.q_norm, query), _rms(attention.k_norm, key)
        query, key = _rotate(query, *rotary), _rotate(key, *rotary)
        keys, values = self.get_buffer(f"keys_{index}"), self.get_buffer(f"values_{index}")
        keys.copy_(torch.slice_scatter(keys, key, 2, start, start + tokens))
        values.copy_(torch.slice_scatter(values, value, 2, start, start + tokens))
        query = query.reshape(1, self.kv_heads, self.group * tokens, self.head_size)
        found = attention_of(query, keys, values, mask)
        found = found.reshape(1, heads, tokens, self.head_size).transpose(1, 2)
        return attention.o_proj(found.reshape(1, tokens, heads * self.head_size))


def _rotary_tables(rotary: Any, axes: int, context: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The model's own cosines and sines [context, head_size], and which axis turns which frequency [axes, 1, 1, head].

    Asked of the model itself, so every kind of rotary scaling is right: a frequency belongs to the axis whose position
    alone changes it.
    """
    like = torch.zeros(1, dtype=torch.float32)
    places = torch.arange(context)[None]
    cosines, sines = rotary(like, places.expand(axes, 1, -1) if axes > 1 else places)
    chosen = torch.ones(1, 1, 1, cosines.shape[-1])
    if axes > 1:
        alone = [rotary(like, one[:, None, None])[1][0] for one in torch.eye(axes, dtype=torch.long)]
        chosen = torch.stack([(sine != 0).float() for sine in alone])[:, None]
    return cosines[0].clone(), sines[0].clone(), chosen


def _rotate(states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """[1, heads, tokens, head_size], turned by position."""
    half = states.shape[-1] // 2
    first, second = states[..., :half], states[..., half:]
    return states * cosines + torch.cat((-second, first), dim=-1) * sines


def _rms(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
    """RMSNorm over the last dimension."""
    variance = hidden.pow(2).mean(-1, keepdim=True)
    return norm.weight * (hidden * torch.rsqrt(variance + norm.variance_epsilon))


def _mlp(mlp: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The gated feed-forward layer."""
    return mlp.down_proj(mlp.act_fn(mlp.gate_proj(hidden)) * mlp.up_proj(hidden))
