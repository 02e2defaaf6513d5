"""SmolVLM's and Idefics3's vision encoder as a static program: one whole frame a call, no mask."""

from typing import Any

import torch
from torch import nn

from masters_edge.export.static_graphs.attention import siglip_layers
from masters_edge.export.student import LoadedStudent

MODEL_TYPES = ("smolvlm", "idefics3")


def unsupported(student: LoadedStudent) -> str | None:
    """Why there can be no static vision encoder, or None."""
    frame, trained = _side(student), student.model.config.vision_config.image_size
    if frame != trained:
        return (
            f"a static graph reads whole frames of the size the vision encoder was trained for: {trained} pixels, "
            f"not the {frame} of max_image_size in preprocessor_config.json; set it to that size"
        )
    return None


def vision_encoder(student: LoadedStudent) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The module and its inputs."""
    side = _side(student)
    return VisionEncoder(student.model), {"pixel_values": torch.zeros(1, 3, side, side)}


class VisionEncoder(nn.Module):
    """pixel_values float32 [1, 3, side, side] -> image_features float32 [image_tokens, hidden]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model, self.connector = model.model.vision_model, model.model.connector

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        tower = self.vision_model
        hidden = tower.embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        # In a whole frame of the trained size, patch i stands at position i.
        hidden = siglip_layers(tower.encoder.layers, hidden + tower.embeddings.position_embedding.weight)
        return self.connector(tower.post_layernorm(hidden))[0]


def _side(student: LoadedStudent) -> int:
    return student.processor.image_processor.max_image_size["longest_edge"]
