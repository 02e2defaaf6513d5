"""SmolVLM, SmolVLM2 and Idefics3: SigLIP tiles, pixel shuffle, a Llama-like decoder."""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling

from masters_edge.families.base import Family, register


@register
class SmolVLM(Family):
    model_types = ("smolvlm", "idefics3")

    def collate_images(self, images: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """`pixel_values` `[sequences, tiles, 3, H, W]`: missing tiles and borders are zero, as the processor pads."""
        tiles, height, width = (max(i["pixel_values"].shape[d] for i in images) for d in (1, 3, 4))
        padded: dict[str, list[torch.Tensor]] = {}
        for image in images:
            _, have, _, rows, columns = image["pixel_values"].shape
            border = (0, width - columns, 0, height - rows)
            padded.setdefault("pixel_values", []).append(F.pad(image["pixel_values"], (*border, 0, 0, 0, tiles - have)))
            if "pixel_attention_mask" in image:
                padded.setdefault("pixel_attention_mask", []).append(
                    F.pad(image["pixel_attention_mask"], (*border, 0, tiles - have))
                )
        return {name: torch.cat(values) for name, values in padded.items()}

    def image_tokens(self, config: Any, inputs: dict[str, torch.Tensor]) -> int:
        """Tiles times the patches of one, after pixel shuffle."""
        _, tiles, _, height, width = inputs["pixel_values"].shape
        patch = config.vision_config.patch_size
        return tiles * (height // patch) * (width // patch) // config.scale_factor**2

    def gives_features(self, model: Any) -> bool:
        return "mm_encoder_outputs" in inspect.signature(type(model).forward).parameters

    def image_features(self, model: Any, images: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        return list(model.base_model.get_image_features(**images, return_dict=True).pooler_output)

    def inputs_of_features(self, features: list[torch.Tensor]) -> dict[str, Any]:
        rows: Any = list(features)  # a tensor per row, as the model's own get_image_features gives them
        return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=rows)}}
