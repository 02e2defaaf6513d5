"""LLaVA-OneVision's vision encoder as a static program: one tile a call; the runtime packs the tiles."""

from typing import Any

import torch
from torch import nn

from masters_edge.export.graphs import llava_onevision
from masters_edge.export.static_graphs.attention import siglip_layers
from masters_edge.export.student import LoadedStudent

MODEL_TYPES = ("llava_onevision",)


def unsupported(student: LoadedStudent) -> str | None:
    """Why there can be no static vision encoder, or None."""
    return None


def vision_encoder(student: LoadedStudent) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The module and its inputs."""
    side = student.model.config.vision_config.image_size
    return VisionEncoder(student.model), {"pixel_values": torch.zeros(1, 3, side, side)}


class VisionEncoder(llava_onevision.VisionEncoder):
    """pixel_values float32 [1, 3, side, side] -> image_features float32 [patches + 1, hidden]: the projected patches
    of the tile, and the newline that packing puts behind each line."""

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        tower: Any = self.vision_tower
        hidden = [tower.embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)]
        hidden[0] = hidden[0] + tower.embeddings.position_embedding.weight
        for layer in tower.encoder.layers[: max(self.chosen)]:
            hidden.append(siglip_layers([layer], hidden[-1]))
        features = torch.cat([hidden[at] for at in self.chosen], dim=-1)
        if self.first:
            features = features[:, self.first :]
        return torch.cat([self.multi_modal_projector(features)[0], self.image_newline[None]])
