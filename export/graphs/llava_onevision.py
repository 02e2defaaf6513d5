"""LLaVA-OneVision: SigLIP encoder with projector and anyres packing, Qwen2 text.

The packing follows the geometry that the runtime prepares (`runtime/families/llava_onevision.py`), so the program holds
everything that has weights, the newline among it, and no arithmetic on picture sizes.
"""

from typing import Any

import torch
from torch import nn

from masters_edge.export.gate import reference
from masters_edge.export.graphs import Part
from masters_edge.export.graphs._decoder import decoder_part, embed_part
from masters_edge.export.student import LoadedStudent
from masters_edge.runtime.families import llava_onevision as runtime

MODEL_TYPES = ("llava_onevision",)
WEIGHTS = {
    "vision": "model.vision_tower.",
    "connector": "model.multi_modal_projector.",
    "embeddings": "model.language_model.embed_tokens.",
    "decoder": "model.language_model.",
    "head": "lm_head.",
}
LAYERS = {"vision_encoder": "model.vision_tower.encoder.layers", "decoder": "model.language_model.layers"}
_TEXT = "model.language_model"
_DYNAMIC = torch.export.Dim.DYNAMIC


def parts(student: LoadedStudent) -> list[Part]:
    """Vision encoder with projector and packing, token embedding, decoder with head."""
    return [_vision_part(student), embed_part(student, _TEXT), decoder_part(student, _TEXT)]


class VisionEncoder(nn.Module):
    """pixel_values float32 [tiles, 3, side, side], feature_rows int64 [features, 4], feature_weights float32
    [features, 4] -> image features float32 [features, hidden].

    A feature is the weighted sum of four rows of a table: the projected patches of every tile, then the newline.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_tower = model.model.vision_tower
        self.multi_modal_projector = model.model.multi_modal_projector
        self.image_newline = model.model.image_newline
        layer = model.config.vision_feature_layer
        count = len(self.vision_tower.encoder.layers)
        # Negative ones count from the last layer's output; 0 is what enters the first.
        self.chosen = [at % (count + 1) for at in ([layer] if isinstance(layer, int) else layer)]
        self.first = 1 if model.config.vision_feature_select_strategy == "default" else 0

    def forward(
        self, pixel_values: torch.Tensor, feature_rows: torch.Tensor, feature_weights: torch.Tensor
    ) -> torch.Tensor:
        tower = self.vision_tower
        hidden = [tower.embeddings(pixel_values)]
        for layer in tower.encoder.layers[: max(self.chosen)]:
            hidden.append(layer(hidden[-1], None))
        features = torch.cat([hidden[at][:, self.first :] for at in self.chosen], dim=-1)
        features = self.multi_modal_projector(features).flatten(0, 1)
        table = torch.cat([features, self.image_newline[None]])
        # One addend at a time: all four at once would take four times the memory of the result.
        packed = table[feature_rows[:, 0]] * feature_weights[:, 0:1]
        for at in range(1, 4):
            packed = packed + table[feature_rows[:, at]] * feature_weights[:, at : at + 1]
        return packed


def _vision_part(student: LoadedStudent) -> Part:
    config = student.model.config
    side = config.vision_config.image_size
    features = 7
    return Part(
        name="vision_encoder",
        module=VisionEncoder(student.model),
        example=(torch.randn(3, 3, side, side), torch.ones(features, 4, dtype=torch.long), torch.rand(features, 4)),
        dynamic=({0: _DYNAMIC}, {0: _DYNAMIC}, {0: _DYNAMIC}),
        inputs=["pixel_values", "feature_rows", "feature_weights"],
        outputs=["image_features"],
        dimensions={
            "pixel_values": ["num_tiles", 3, side, side],
            "feature_rows": ["num_features", 4],
            "feature_weights": ["num_features", 4],
            "image_features": ["num_features", config.text_config.hidden_size],
        },
        prefixes={
            "vision_tower": "model.vision_tower",
            "multi_modal_projector": "model.multi_modal_projector",
            "image_newline": "model.image_newline",
        },
    )


class Reference(reference.Reference):
    """Of this family: pixels of the tiles, and the size of the picture that they come from."""

    @staticmethod
    def see(inputs: Any) -> dict[str, torch.Tensor]:
        return {name: inputs[name] for name in ("pixel_values", "image_sizes")}

    def look(self, model: Any, seen: dict[str, torch.Tensor]) -> torch.Tensor:
        return model.get_image_features(**seen, return_dict=True).pooler_output[0]

    def graph_inputs(self, student: LoadedStudent, seen: dict[str, torch.Tensor]) -> dict[str, Any]:
        height, width = seen["image_sizes"][0].tolist()
        return {
            "pixel_values": seen["pixel_values"][0].numpy(),
            **runtime.packing((height, width), student.model.config.to_dict()),
        }
