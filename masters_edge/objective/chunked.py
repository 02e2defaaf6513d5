"""Losses from hidden states and the output head, a few tokens at a time: never all logits at once.

`[tokens, vocab]` in float32, and the five to ten tensors like it that a divergence and its gradient need, are what
fills memory where vocabularies are large. Here a chunk's logits are made, its loss and the loss's gradient are taken,
and the logits are dropped; hidden states and head get their gradients from the sum. Value and gradient are those of the
plain computation.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed.tensor import DTensor

CHUNK_LOGITS = 1 << 24  # entries of one chunk's logits, 64 MiB in float32

# What some text models do to their logits after the head; no family built in has one of these.
_BEHIND_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")

Values = Mapping[str, torch.Tensor]
LossOfChunk = Callable[[torch.Tensor, slice], tuple[torch.Tensor, Values]]


class Head(NamedTuple):
    """An output head: weight `[vocab, hidden]` and bias `[vocab]`, or none."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None

    @classmethod
    def of(cls, model: Any) -> "Head":
        """The head of a transformers model, whole where FSDP has cut it up.

        Raises:
            TypeError: it is no plain linear layer, or the model scales or caps its logits behind it.
        """
        layer = model.get_output_embeddings()
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"the output head must be a plain linear layer, not {type(layer).__name__}")
        text = model.config.get_text_config()
        if behind := [name for name in _BEHIND_THE_HEAD if getattr(text, name, None)]:
            raise TypeError(f"the model changes its logits behind the output head ({', '.join(behind)})")
        return cls(_whole(layer.weight), None if layer.bias is None else _whole(layer.bias))


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def chunks(tokens: int, vocabulary: int, entries: int = CHUNK_LOGITS) -> Iterator[slice]:
    """Consecutive slices of `tokens`, each with at most `entries` logits; an empty one where there are no tokens."""
    size = max(1, entries // vocabulary)
    for start in range(0, max(1, tokens), size):
        yield slice(start, min(start + size, tokens))


def chunk_logits(hidden: torch.Tensor, head: Head, vocabulary: int) -> torch.Tensor:
    """Logits `[tokens, vocabulary]` of some hidden states `[tokens, hidden]`.

    Only the tokenizer's own entries: heads of one family are padded to different sizes. On a GPU logits are float32
    even where the factors are bfloat16, since rounding them cancels badly in a divergence between near distributions.
    """
    dtype, autocast_off = _number_format(hidden)
    hidden, weight = hidden.to(dtype), head.weight[:vocabulary].to(dtype)
    with autocast_off:
        if hidden.is_cuda and dtype in (torch.bfloat16, torch.float16):
            logits = torch.mm(hidden, weight.T, out_dtype=torch.float32)
        else:
            logits = hidden @ weight.T
        return logits if head.bias is None else logits + head.bias[:vocabulary].to(logits.dtype)


def _number_format(hidden: torch.Tensor) -> tuple[torch.dtype, Any]:
    """What products with `hidden` are computed in, and a context in which autocast doesn't decide it."""
    kind = hidden.device.type
    if kind == "meta":  # shapes only: nothing is computed
        return hidden.dtype, contextlib.nullcontext()
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    return dtype, torch.autocast(kind, enabled=False)


def loss(
    hidden: torch.Tensor, head: Head, vocabulary: int, of_chunk: LossOfChunk, entries: int = CHUNK_LOGITS
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The sum of a loss over chunks of tokens, differentiable in `hidden` and the head.

    Args:
        hidden: `[tokens, hidden]`, what the head reads.
        head: the output head.
        vocabulary: entries of the head that count.
        of_chunk: logits `[n, vocabulary]` and the slice of tokens they belong to, to the loss summed over the chunk
            (a scalar) and what else to add up and report (scalars).
        entries: logits in memory at once.

    Returns:
        The loss, a float32 scalar, and the sums of what `of_chunk` reported, without gradient.
    """
    reported: dict[str, torch.Tensor] = {}
    total = _Chunked.apply(hidden, head.weight, head.bias, vocabulary, of_chunk, entries, reported)
    return total, reported


class _Chunked(torch.autograd.Function):
    """Takes the gradients with the value, while a chunk's logits are there; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        vocabulary: int,
        of_chunk: LossOfChunk,
        entries: int,
        reported: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        wants = ctx.needs_input_grad[:3]
        # One copy in the number format of the products, however many chunks there are.
        dtype, _ = _number_format(hidden)
        states, rows = hidden.detach().to(dtype), weight.detach()[:vocabulary].to(dtype)
        sums = torch.float64 if dtype == torch.float64 else torch.float32  # many chunks add up in them
        to_hidden = torch.zeros_like(hidden) if wants[0] else None
        to_weight = torch.zeros_like(weight, dtype=sums) if wants[1] else None
        to_bias = torch.zeros_like(bias, dtype=sums) if wants[2] and bias is not None else None
        total = hidden.new_zeros((), dtype=sums)
        for part in chunks(hidden.shape[0], vocabulary, entries):
            logits = chunk_logits(states[part], Head(rows, bias), vocabulary).detach()
            with torch.set_grad_enabled(any(wants)):
                value, values = of_chunk(logits.requires_grad_(any(wants)), part)
            total += value.detach()
            for name, number in values.items():
                reported[name] = reported.get(name, 0) + number.detach()
            if not any(wants):
                continue
            (gradient,) = torch.autograd.grad(value, logits)
            del logits, value, values
            if to_bias is not None:
                to_bias[:vocabulary] += gradient.sum(0)
            gradient = gradient.to(dtype)
            if to_hidden is not None:
                to_hidden[part] = gradient @ rows
            if to_weight is not None:
                to_weight[:vocabulary] += gradient.T @ states[part]
        ctx.gradients = (
            to_hidden,
            None if to_weight is None else to_weight.to(weight.dtype),
            None if to_bias is None or bias is None else to_bias.to(bias.dtype),
        )
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> Any:
        (scale,) = upstream
        scaled = [None if g is None else g.mul_(scale.to(g.dtype)) for g in ctx.gradients]
        ctx.gradients = ()
        return (*scaled, None, None, None, None)
