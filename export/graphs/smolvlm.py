"""SmolVLM and Idefics3: SigLIP tower with pixel-shuffle connector, token embedding, Llama-style decoder with head.

Names, shapes and dimension names are those of transformers.js (CONTRACTS). The vision part follows
`get_image_features`: frames that are all zero are padding and leave no features, and patches outside the
`pixel_attention_mask` are not attended to.
"""

from typing import Any

import torch
from torch import nn

from masters_edge.export.gate import reference
from masters_edge.export.graphs import Part
from masters_edge.export.graphs._decoder import decoder_part, embed_part
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
_TEXT = "model.text_model"
_DYNAMIC = torch.export.Dim.DYNAMIC


def parts(student: LoadedStudent) -> list[Part]:
    """Vision encoder with connector, token embedding, decoder with head."""
    return [_vision_part(student), embed_part(student, _TEXT), decoder_part(student, _TEXT)]


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


def _text_config(student: LoadedStudent) -> Any:
    return student.model.config.text_config


class Reference(reference.Reference):
    """Of this family: pixels and the mask of what is picture in them."""

    @staticmethod
    def see(inputs: Any) -> dict[str, torch.Tensor]:
        pixels = inputs["pixel_values"]
        mask = inputs.get("pixel_attention_mask")
        if mask is None:
            mask = torch.ones(pixels.shape[0], pixels.shape[1], *pixels.shape[-2:])
        return {"pixel_values": pixels, "pixel_attention_mask": mask.bool()}

    def look(self, model: Any, seen: dict[str, torch.Tensor]) -> torch.Tensor:
        features = torch.cat(model.get_image_features(**seen, return_dict=True).pooler_output)
        return features.flatten(0, -2)
