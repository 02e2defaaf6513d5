"""SmolVLM and Idefics3: SigLIP tower with pixel-shuffle connector, token embedding, Llama-style decoder with head.

Names, shapes and dimension names are those of transformers.js (CONTRACTS). The vision part follows
`get_image_features`: frames that are all zero are padding and leave no features, and patches outside the
`pixel_attention_mask` are not attended to.
"""

import inspect
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from masters_edge.export import reference
from masters_edge.export.graphs import Part
from masters_edge.export.student import LoadedStudent

MODEL_TYPES = ("smolvlm", "idefics3")
WEIGHTS = {
    "vision": "model.vision_model.",
    "connector": "model.connector.",
    "embeddings": "model.text_model.embed_tokens.",
    "decoder": "model.text_model.",
    "head": "lm_head.",
}
LAYERS = {"vision_encoder": "model.vision_model.encoder.layers", "decoder": "model.text_model.layers"}
_DYNAMIC = torch.export.Dim.DYNAMIC


def parts(student: LoadedStudent) -> list[Part]:
    """Vision encoder with connector, token embedding, decoder with head."""
    return [_vision_part(student), _embed_part(student), _decoder_part(student)]


class VisionEncoder(nn.Module):
    """pixel_values float32 [batch, images, 3, h, w], pixel_attention_mask bool [batch, images, h, w] ->
    image features float32 [images that are not padding, image_tokens, hidden]."""

    boundaries: torch.Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model = model.model.vision_model
        self.connector = model.model.connector
        self.patch = self.vision_model.config.patch_size
        self.side = self.vision_model.config.image_size // self.patch
        # As in the model's own embedding: how many boundaries a coordinate has passed is its row or column.
        self.register_buffer("boundaries", torch.arange(1 / self.side, 1.0, 1 / self.side), persistent=False)

    def forward(self, pixel_values: torch.Tensor, pixel_attention_mask: torch.Tensor) -> torch.Tensor:
        pixels = pixel_values.flatten(0, 1)
        mask = pixel_attention_mask.flatten(0, 1)
        real = (pixels != 0).flatten(1).any(dim=1)  # [frames]
        # With no picture at all the first frame counts, as in SmolVLM.
        first = torch.arange(real.shape[0]) == 0
        real = real | (first & ~real.any())
        # A padding frame is computed like any other and dropped at the end; an empty mask would divide by zero.
        patches = self._patches(mask) | ~real[:, None, None]  # [frames, rows, columns]
        tower = self.vision_model
        hidden = tower.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        hidden = hidden + tower.embeddings.position_embedding(self._positions(patches))
        # Added to the scores [frames, 1, 1, patches]; a mask of bools would bring a NaN check into every layer.
        attend = (~patches).flatten(1)[:, None, None, :] * torch.finfo(torch.float32).min
        for layer in tower.encoder.layers:
            hidden = layer(hidden, attend)
        return self.connector(tower.post_layernorm(hidden))[real]

    def _patches(self, mask: torch.Tensor) -> torch.Tensor:
        """Patches with at least one pixel of the picture: bool [frames, h, w] -> [frames, h / patch, w / patch]."""
        rows, columns = mask.shape[1] // self.patch, mask.shape[2] // self.patch
        mask = mask[:, : rows * self.patch, : columns * self.patch]
        return mask.reshape(-1, rows, self.patch, columns, self.patch).to(torch.int32).sum(dim=(2, 4)) > 0

    def _positions(self, patches: torch.Tensor) -> torch.Tensor:
        """int64 [frames, patches]: each patch's place on the grid the positions were trained for (NaViT)."""
        rows = self._buckets(patches.shape[1], patches[:, :, 0])
        columns = self._buckets(patches.shape[2], patches[:, 0, :])
        positions = rows[:, :, None] * self.side + columns[:, None, :]
        return (positions * patches).flatten(1)

    def _buckets(self, count: int, filled: torch.Tensor) -> torch.Tensor:
        """bool [frames, count] of one edge -> int64 [frames, count]."""
        step = 1.0 / filled.sum(dim=1)
        coordinates = torch.arange(count, dtype=torch.float32)[None, :] * step[:, None]
        return (coordinates.clamp(max=1.0 - 1e-6)[..., None] >= self.boundaries).sum(dim=-1)


class Embed(nn.Module):
    """input_ids int64 [batch, tokens] -> inputs_embeds float32 [batch, tokens, hidden]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.embed_tokens = model.get_input_embeddings()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.embed_tokens(input_ids)


class Decoder(nn.Module):
    """Text model and head with the KV cache as plain inputs and outputs, key and value of each layer in turn.

    inputs_embeds float32 [batch, tokens, hidden], attention_mask int64 [batch, past + tokens], position_ids int64
    [batch, tokens], past: list of float32 [batch, kv_heads, past, head_size] -> logits float32 [batch, tokens,
    vocab], then the same list grown by `tokens`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text_model = model.model.text_model
        self.lm_head = model.lm_head
        parameters = inspect.signature(type(self.text_model).forward).parameters
        self.cache_argument = "cache" if "cache" in parameters else "past_key_values"

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        cache = _cache(past)
        output = self.text_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=True,
            **{self.cache_argument: cache},
        )
        present = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]  # type: ignore[union-attr]
        return (self.lm_head(output.last_hidden_state), *present)


def _cache(past: list[torch.Tensor]) -> DynamicCache:
    """A cache that starts with `past`, without the empty concatenation that transformers begins with."""
    cache = DynamicCache()
    for keys, values in zip(past[::2], past[1::2]):
        layer = DynamicLayer()
        layer.keys, layer.values = keys, values
        layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True  # type: ignore[attr-defined]
        cache.layers.append(layer)
    return cache


def _vision_part(student: LoadedStudent) -> Part:
    side = student.processor.image_processor.max_image_size["longest_edge"]
    batch, images = 2, 3
    frames: list[int | str] = ["batch_size", "num_images"]
    return Part(
        name="vision_encoder",
        module=VisionEncoder(student.model),
        example=(torch.randn(batch, images, 3, side, side), torch.ones(batch, images, side, side, dtype=torch.bool)),
        dynamic=({0: _DYNAMIC, 1: _DYNAMIC}, {0: _DYNAMIC, 1: _DYNAMIC}),
        inputs=["pixel_values", "pixel_attention_mask"],
        outputs=["image_features"],
        dimensions={
            "pixel_values": [*frames, 3, side, side],
            "pixel_attention_mask": [*frames, side, side],
            "image_features": ["num_real_images", student.processor.image_seq_len, _text_config(student).hidden_size],
        },
        prefixes={"vision_model": "model.vision_model", "connector": "model.connector"},
    )


def _embed_part(student: LoadedStudent) -> Part:
    return Part(
        name="embed_tokens",
        module=Embed(student.model),
        example=(torch.ones(2, 7, dtype=torch.long),),
        dynamic=({0: _DYNAMIC, 1: _DYNAMIC},),
        inputs=["input_ids"],
        outputs=["inputs_embeds"],
        dimensions={
            "input_ids": ["batch_size", "sequence_length"],
            "inputs_embeds": ["batch_size", "sequence_length", _text_config(student).hidden_size],
        },
        prefixes={"embed_tokens": "model.text_model.embed_tokens"},
    )


def _decoder_part(student: LoadedStudent) -> Part:
    config = _text_config(student)
    heads = config.num_key_value_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    batch, tokens, past = 2, 3, 5
    names = [f"{layer}.{which}" for layer in range(config.num_hidden_layers) for which in ("key", "value")]
    mask = torch.ones(batch, past + tokens, dtype=torch.long)
    # A slice of `positions` must be made contiguous, or its strides are baked into the program.
    positions = torch.arange(past + tokens).repeat(batch, 1)[:, past:].contiguous()
    steps: list[int | str] = ["batch_size", "sequence_length"]
    return Part(
        name="decoder",
        module=Decoder(student.model),
        example=(
            torch.randn(batch, tokens, config.hidden_size),
            mask,
            positions,
            [torch.randn(batch, heads, past, head_size) for _ in names],
        ),
        dynamic=({0: _DYNAMIC, 1: _DYNAMIC},) * 3 + ([{0: _DYNAMIC, 2: _DYNAMIC}] * len(names),),
        inputs=["inputs_embeds", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in names)],
        outputs=["logits", *(f"present.{name}" for name in names)],
        dimensions={
            "inputs_embeds": [*steps, config.hidden_size],
            "attention_mask": ["batch_size", "total_sequence_length"],
            "position_ids": steps,
            "logits": [*steps, config.vocab_size],
            **{f"past_key_values.{name}": ["batch_size", heads, "past_sequence_length", head_size] for name in names},
            **{f"present.{name}": ["batch_size", heads, "total_sequence_length", head_size] for name in names},
        },
        prefixes={"text_model": "model.text_model"},
    )


def _text_config(student: LoadedStudent) -> Any:
    return student.model.config.text_config


class Reference(reference.Reference):
    """Of this family: pixels and the mask of what is picture in them."""

    def see(self, inputs: Any) -> dict[str, torch.Tensor]:
        pixels = inputs["pixel_values"]
        mask = inputs.get("pixel_attention_mask")
        if mask is None:
            mask = torch.ones(pixels.shape[0], pixels.shape[1], *pixels.shape[-2:])
        return {"pixel_values": pixels, "pixel_attention_mask": mask.bool()}

    def look(self, model: Any, seen: dict[str, torch.Tensor]) -> torch.Tensor:
        features = torch.cat(model.get_image_features(**seen, return_dict=True).pooler_output)
        return features.flatten(0, -2)
