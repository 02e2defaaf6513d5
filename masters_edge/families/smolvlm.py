"""SmolVLM, SmolVLM2 and Idefics3: SigLIP tiles, pixel shuffle, a Llama-like decoder."""

from typing import Any

import torch
import torch.nn.functional as F

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
