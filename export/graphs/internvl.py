"""InternVL3 and InternVL3.5 in transformers' layout: InternViT with pixel shuffle and projector, Qwen2 or Qwen3 text.

Names, shapes and dimension names are those that transformers.js knows as LLaVA (CONTRACTS). The batch of the vision
part is the tiles, of one picture or of several.
"""

from typing import Any

import torch
from torch import nn

from masters_edge.common.errors import UserError
from masters_edge.export.gate import reference
from masters_edge.export.graphs import Part
from masters_edge.export.graphs._decoder import decoder_part, embed_part
from masters_edge.export.student import LoadedStudent

MODEL_TYPES = ("internvl",)
WEIGHTS = {
    "vision": "model.vision_tower.",
    "connector": "model.multi_modal_projector.",
    "embeddings": "model.language_model.embed_tokens.",
    "decoder": "model.language_model.",
    "head": "lm_head.",
}
LAYERS = {"vision_encoder": "model.vision_tower.encoder.layer", "decoder": "model.language_model.layers"}
_TEXT = "model.language_model"


def parts(student: LoadedStudent) -> list[Part]:
    """Vision encoder with projector, token embedding, decoder with head."""
    return [_vision_part(student), embed_part(student, _TEXT), decoder_part(student, _TEXT)]


class VisionEncoder(nn.Module):
    """pixel_values float32 [tiles, 3, h, w] -> image features float32 [tiles, image_tokens, hidden]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_tower = model.model.vision_tower
        self.multi_modal_projector = model.model.multi_modal_projector
        self.first = 1 if model.config.vision_feature_select_strategy == "default" else 0  # the class token goes
        self.factor = round(1 / model.config.downsample_ratio)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        tower = self.vision_tower
        hidden = tower.embeddings(pixel_values)
        for layer in tower.encoder.layer:
            hidden = layer(hidden)
        return self.multi_modal_projector(self._shuffle(tower.layernorm(hidden)[:, self.first :]))

    def _shuffle(self, features: torch.Tensor) -> torch.Tensor:
        """[tiles, side * side, width] -> [tiles, side * side / factor ** 2, width * factor ** 2], blocks made rows."""
        tiles, patches, width = features.shape
        side, factor = int(patches**0.5), self.factor
        features = features.reshape(tiles, side, side // factor, width * factor).transpose(1, 2)
        features = features.reshape(tiles, side // factor, side // factor, width * factor**2).transpose(1, 2)
        return features.reshape(tiles, -1, width * factor**2)


def _vision_part(student: LoadedStudent) -> Part:
    config = student.model.config
    if config.vision_feature_layer != -1:
        raise UserError(
            f"{student.folder / 'config.json'} asks for vision_feature_layer {config.vision_feature_layer}; "
            "an InternVL can be exported with -1 only: train one that has it"
        )
    height, width = config.vision_config.image_size
    return Part(
        name="vision_encoder",
        module=VisionEncoder(student.model),
        example=(torch.randn(2, 3, height, width),),
        dynamic=({0: torch.export.Dim.DYNAMIC},),
        inputs=["pixel_values"],
        outputs=["image_features"],
        dimensions={
            "pixel_values": ["batch_size", 3, height, width],
            "image_features": ["batch_size", student.processor.image_seq_length, config.text_config.hidden_size],
        },
        prefixes={
            "vision_tower": "model.vision_tower",
            "multi_modal_projector": "model.multi_modal_projector",
        },
    )


class Reference(reference.Reference):
    """Of this family: the pixels of the tiles."""

    @staticmethod
    def see(inputs: Any) -> dict[str, torch.Tensor]:
        return {"pixel_values": inputs["pixel_values"]}

    def look(self, model: Any, seen: dict[str, torch.Tensor]) -> torch.Tensor:
        return model.get_image_features(**seen, return_dict=True).pooler_output.flatten(0, 1)
