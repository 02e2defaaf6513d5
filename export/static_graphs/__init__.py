"""The parts of a student as static programs, for runtimes that want every shape fixed: Core ML and ExecuTorch.

Fixed context, KV cache in buffers, additive mask. The text model is the same plain code for every family
(`decoder.py`), the vision encoder is one file per family (`vision_<family>.py`, found by its MODEL_TYPES). In: a
LoadedStudent. Out: `StaticPart`s, which capture exported programs with torchao's integers in them.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from masters_edge.common import registry
from masters_edge.export.static_graphs.decoder import Decoder
from masters_edge.export.static_graphs.parts import StaticPart
from masters_edge.export.student import LoadedStudent

CONTEXT = 2048  # tokens of prompt and answer together, where the student can take as many
LENGTHS = {"prefill": 64, "decode": 1}  # tokens that a function takes at once


def parts(student: LoadedStudent, integer: torch.dtype) -> list[StaticPart]:
    """Vision encoder, token embedding, decoder with head; `integer` is the dtype of ids and positions."""
    model, text = student.model, text_model(student.model)
    encoder, seen = _vision(student.model_type).vision_encoder(student)
    seen = {name: example if example.is_floating_point() else example.to(integer) for name, example in seen.items()}
    decoder = Decoder(text, model.lm_head, context(student))
    width = text.config.hidden_size * (1 + _deepstack(model))
    ids = {name: {"input_ids": torch.zeros(1, length, dtype=integer)} for name, length in LENGTHS.items()}
    steps = {
        name: {
            "inputs_embeds": torch.zeros(1, length, width),
            "attention_mask": torch.zeros(1, 1, length, decoder.context),
            "position_ids": torch.zeros(decoder.axes, 1, length, dtype=integer),
            "cache_position": torch.zeros(1, dtype=integer),
        }
        for name, length in LENGTHS.items()
    }
    return [
        StaticPart("vision_encoder", encoder, {"main": seen}, "image_features", model),
        StaticPart("embed_tokens", Embed(text.embed_tokens, width), ids, "inputs_embeds", model),
        StaticPart("decoder", decoder, steps, "logits", model),
    ]


def unsupported(student: LoadedStudent) -> str | None:
    """One sentence why this student has no static graphs, or None."""
    vision = _vision(student.model_type)
    if vision is None:
        known = sorted(name for module in _visions() for name in module.MODEL_TYPES)
        return (
            f"there is no static graph of a {student.model_type} vision encoder yet; these have one: {', '.join(known)}"
        )
    if "sliding_attention" in (getattr(text_model(student.model).config, "layer_types", None) or ()):
        return "the text model has layers with sliding attention, and a static graph attends to its whole context"
    return vision.unsupported(student)


def context(student: LoadedStudent) -> int:
    """Tokens that the KV cache holds."""
    return min(CONTEXT, text_model(student.model).config.max_position_embeddings)


def text_model(model: Any) -> Any:
    """The decoder's layers and their embedding, without the head."""
    embedding = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embedding)
    return model.get_submodule(name.rpartition(".")[0])


class Embed(nn.Module):
    """input_ids int [1, tokens] -> inputs_embeds float32 [1, tokens, width], zero behind the hidden size."""

    def __init__(self, embed_tokens: nn.Embedding, width: int) -> None:
        super().__init__()
        self.embed_tokens = embed_tokens
        self.more = width - embed_tokens.embedding_dim

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        embeds = self.embed_tokens(input_ids)
        return functional.pad(embeds, (0, self.more)) if self.more else embeds


def _deepstack(model: Any) -> int:
    """How many levels of DeepStack the student has."""
    config = model.config.vision_config
    return sum(index < config.depth for index in getattr(config, "deepstack_visual_indexes", None) or ())


def _visions() -> list[ModuleType]:
    names = [name for name in registry.names(sys.modules[__name__]) if name.startswith("vision_")]
    return [importlib.import_module(f"{__name__}.{name}") for name in names]


def _vision(model_type: str) -> Any:
    return next((module for module in _visions() if model_type in module.MODEL_TYPES), None)
