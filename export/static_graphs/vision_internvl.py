"""InternVL's vision encoder as a static program: one tile a call."""

from typing import Any

import torch
from torch import nn

from masters_edge.export.graphs import internvl
from masters_edge.export.static_graphs.attention import attend
from masters_edge.export.student import LoadedStudent

MODEL_TYPES = ("internvl",)


def unsupported(student: LoadedStudent) -> str | None:
    """Why there can be no static vision encoder, or None."""
    layer = student.model.config.vision_feature_layer
    return None if layer == -1 else f"a static graph takes features from the last layer, not from {layer}"


def vision_encoder(student: LoadedStudent) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The module and its inputs."""
    height, width = student.model.config.vision_config.image_size
    return VisionEncoder(student.model), {"pixel_values": torch.zeros(1, 3, height, width)}


class VisionEncoder(internvl.VisionEncoder):
    """pixel_values float32 [1, 3, h, w] -> image_features float32 [image_tokens, hidden]."""

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        tower = self.vision_tower
        hidden = self._embed(tower.embeddings, pixel_values)
        for layer in tower.encoder.layer:
            hidden = _layer(layer, hidden)
        features = tower.layernorm(hidden)
        if self.first:
            features = features[:, self.first :]
        return self.multi_modal_projector(self._shuffle(features))[0]

    def _embed(self, embeddings: Any, pixel_values: torch.Tensor) -> torch.Tensor:
        patches = embeddings.patch_embeddings.projection(pixel_values).flatten(2).transpose(1, 2)
        hidden = torch.cat((embeddings.cls_token, patches), dim=1)
        return hidden if embeddings.position_embeddings is None else hidden + embeddings.position_embeddings


def _layer(layer: Any, hidden: torch.Tensor) -> torch.Tensor:
    """One layer of the tower: hidden float32 [1, patches, width]."""
    own, normed = layer.attention, layer.layernorm_before(hidden)
    query, key = own.q_norm(own.q_proj(normed)), own.k_norm(own.k_proj(normed))
    mixed = own.projection_layer(attend(query, key, own.v_proj(normed), own.num_heads))
    hidden = hidden + layer.lambda_1 * mixed
    return hidden + layer.lambda_2 * layer.mlp(layer.layernorm_after(hidden))
