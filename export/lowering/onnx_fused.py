"""A decoder in ONNX Runtime's own operators: one node where the plain graph has ten, and a KV cache that can stay put.

`fused(part)` swaps, while a decoder is captured, what transformers' text models do in many small steps for operators
of one node each: GroupQueryAttention (its past and present may share one buffer), RotaryEmbedding, RMS norm. They
compute what the modules do, in float32; weights keep their names. `finish` goes over the lowered graph: a sum and the
norm behind it become one node, and a caller may ask for the logits of the last tokens alone.

Queries and keys are turned by nodes of their own: GroupQueryAttention can do it too, but takes the first row's places
for all rows of a prompt.
"""

import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from torch.onnx.ops import symbolic, symbolic_multi_out

from masters_edge.export.graphs import Part

KEEP = "num_logits_to_keep"  # as transformers.js calls it: logits of so many last tokens, 0 for all
_LAST = "LastTokens"  # stands in the graph until `finish`
_NORM = "SimplifiedLayerNormalization"
_NOT_SEEN = -(1 << 30)  # added to the scores of padding
_OWN, _MICROSOFT = "masters_edge", "com.microsoft"


@contextmanager
def fused(part: Part) -> Iterator[None]:
    """While it lasts, the part's attention and norms are captured as single nodes."""
    module: Any = part.module
    lengths = _Lengths()
    layers = [layer.self_attn for layer in module.text_model.layers]
    norms = [norm for norm in module.text_model.modules() if hasattr(norm, "variance_epsilon")]
    with ExitStack() as stack:
        stack.callback(module.register_forward_pre_hook(lengths.note).remove)
        stack.callback(module.lm_head.register_forward_pre_hook(_last_tokens).remove)
        for owner in layers:
            owner.forward = types.MethodType(lengths.attention, owner)
            stack.callback(owner.__dict__.pop, "forward")
        for owner in norms:
            owner.forward = types.MethodType(_rms_norm, owner)
            stack.callback(owner.__dict__.pop, "forward")
        yield


class _Lengths:
    """What all layers' attention needs beside their states: tokens before the last one int32 [batch], past and new
    tokens int32 [1], what is added to scores of padding float32 [batch, 1, tokens, past + tokens]; and the angles of
    the new tokens as a table with a row for each of them."""

    def note(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Hears the decoder's inputs."""
        embeds, mask = inputs[:2]
        batch, total = mask.shape
        self.before = torch.full((batch,), total - 1, dtype=torch.int32)
        self.total = torch.full((1,), total, dtype=torch.int32)
        self.bias = ((1 - mask) * _NOT_SEEN).float()[:, None, None].expand(-1, 1, embeds.shape[1], -1)
        self.turned: tuple[Any, ...] = ()

    def rotation(self, position_embeddings: Any) -> tuple[torch.Tensor, ...]:
        """int64 [batch, tokens] rows, cosines and sines float32 [batch * tokens, head_size / 2], made once for all."""
        if not self.turned:
            cosines, sines = position_embeddings
            batch, tokens, size = cosines.shape
            rows = torch.arange(batch * tokens).reshape(batch, tokens)
            self.turned = (rows, *(half.reshape(-1, size)[:, : size // 2] for half in (cosines, sines)))
        return self.turned

    def attention(
        self, layer: Any, hidden_states: torch.Tensor, position_embeddings: Any = None, cache: Any = None, **rest: Any
    ) -> tuple[torch.Tensor, None]:
        """Stands in for an attention module's `forward`."""
        batch, tokens, _ = hidden_states.shape
        size = layer.head_dim
        query, key, value = (project(hidden_states) for project in (layer.q_proj, layer.k_proj, layer.v_proj))
        if hasattr(layer, "q_norm"):
            query = layer.q_norm(query.view(batch, tokens, -1, size)).reshape(batch, tokens, -1)
            key = layer.k_norm(key.view(batch, tokens, -1, size)).reshape(batch, tokens, -1)
        heads, kv_heads = query.shape[-1] // size, key.shape[-1] // size
        rotation = self.rotation(position_embeddings)
        query, key = (
            symbolic(
                f"{_MICROSOFT}::RotaryEmbedding",
                (states, *rotation),
                {"num_heads": count, "interleaved": 0, "rotary_embedding_dim": 0},
                dtype=states.dtype,
                shape=states.shape,
                version=1,
            )
            for states, count in ((query, heads), (key, kv_heads))
        )
        kept = cache.layers[layer.layer_idx]
        present = (batch, kv_heads, kept.keys.shape[2] + tokens, size)
        window = getattr(layer, "sliding_window", None)
        found, kept.keys, kept.values = symbolic_multi_out(
            f"{_MICROSOFT}::GroupQueryAttention",
            (query, key, value, kept.keys, kept.values, self.before, self.total, None, None, None, self.bias),
            {
                "num_heads": heads,
                "kv_num_heads": kv_heads,
                "scale": float(layer.scaling),
                "local_window_size": -1 if window is None else int(window),
            },
            dtypes=(query.dtype,) * 3,
            shapes=(query.shape, present, present),
            version=1,
        )
        return layer.o_proj(found), None


def finish(model: ir.Model) -> None:
    """What is left to do once weights are in place and the optimizer has run."""
    _join_sums_and_norms(model.graph)
    _keep_last(model.graph)
    model.graph.opset_imports.pop(_OWN, None)
    model.graph.opset_imports.setdefault(_MICROSOFT, 1)


def _join_sums_and_norms(graph: ir.Graph) -> None:
    """What is added to the residual stream, and the norm of the sum, as one node that gives both."""
    for norm in [node for node in graph if node.op_type == _NORM]:
        added = norm.inputs[0].producer() if norm.inputs[0] is not None else None
        if added is None or added.op_type != "Add" or any(term.is_initializer() for term in added.inputs if term):
            continue
        joined = ir.node(
            "SkipSimplifiedLayerNormalization",
            [*added.inputs, norm.inputs[1]],
            {"epsilon": norm.attributes["epsilon"].value},
            num_outputs=4,
            domain=_MICROSOFT,
            version=1,
        )
        for unused in joined.outputs[1:3]:
            unused.name = ""
        graph.insert_before(norm, joined)
        # Whatever reads the sum comes after the norm: the stream goes through both.
        added.outputs[0].replace_all_uses_with(joined.outputs[3])
        norm.outputs[0].replace_all_uses_with(joined.outputs[0])
        graph.remove([norm, added], safe=True)
    graph.sort()


def _keep_last(graph: ir.Graph) -> None:
    """The optional input `num_logits_to_keep`, int64 [1], which is 0 (all) where nobody sets it."""
    for node in [node for node in graph if node.op_type == _LAST]:
        keep = ir.Value(
            name=KEEP,
            shape=ir.Shape([1]),
            type=ir.TensorType(ir.DataType.INT64),
            const_value=ir.tensor(np.zeros(1, np.int64), name=KEEP),
        )
        graph.inputs.append(keep)
        graph.register_initializer(keep)
        start = ir.node("Neg", [keep])
        end, axis = (
            ir.node("Constant", [], attributes={"value": ir.tensor(np.array([number], np.int64))})
            for number in (np.iinfo(np.int64).max, 1)
        )
        kept = ir.node("Slice", [node.inputs[0], start.outputs[0], end.outputs[0], axis.outputs[0]])
        graph.insert_before(node, [start, end, axis, kept])
        node.outputs[0].replace_all_uses_with(kept.outputs[0])
        graph.remove(node, safe=True)


def _last_tokens(head: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
    """Marks the place before the head."""
    (hidden,) = inputs
    return (symbolic(f"{_OWN}::{_LAST}", (hidden,), dtype=hidden.dtype, shape=hidden.shape, version=1),)


def _rms_norm(norm: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """Stands in for an RMS norm's `forward`; ONNX Runtime has this operator since before ONNX had RMSNormalization."""
    return symbolic(
        f"::{_NORM}",
        (hidden_states, norm.weight),
        {"axis": -1, "epsilon": float(norm.variance_epsilon), "stash_type": 1},
        dtype=hidden_states.dtype,
        shape=hidden_states.shape,
        version=1,
    )
