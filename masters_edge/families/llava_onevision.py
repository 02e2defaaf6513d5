"""LLaVA-OneVision: SigLIP tiles on the grid that suits the picture (anyres), unpadded, a newline behind each row."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from transformers.models.llava_onevision.modeling_llava_onevision import get_anyres_image_grid_shape, unpad_image

from masters_edge.families.base import Family, register


@register
class LlavaOnevision(Family):
    """`pixel_values` `[images, tiles, 3, side, side]`, the whole image first; `image_sizes` `[images, 2]`."""

    model_types = ("llava_onevision",)

    def collate_images(self, images: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Missing tiles are zero, as the processor pads; the model leaves them out by `image_sizes`."""
        tiles = max(image["pixel_values"].shape[1] for image in images)
        collated = super().collate_images([{k: v for k, v in i.items() if k != "pixel_values"} for i in images])
        padded = [F.pad(p, (0, 0, 0, 0, 0, 0, 0, tiles - p.shape[1])) for p in (i["pixel_values"] for i in images)]
        return {"pixel_values": torch.cat(padded), **collated}

    def image_tokens(self, config: Any, inputs: dict[str, torch.Tensor]) -> int:
        """The whole image's patches, and those of its tiles: unpadded, thinned out above `anyres_max`, with newlines.

        As transformers' `LlavaOnevisionModel.pack_image_features` has it.
        """
        vision, (size,) = config.vision_config, inputs["image_sizes"].tolist()
        side = inputs["pixel_values"].shape[-1] // vision.patch_size
        rows, columns = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, vision.image_size)
        tiles = torch.empty(1, rows * side, columns * side, device="meta")
        _, height, width = unpad_image(tiles, size).shape
        most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
        ratio = math.sqrt(height * width / (most * side**2))
        if ratio > 1.1:
            height, width = int(height // ratio), int(width // ratio)
        return side * side + height * (width + 1)
