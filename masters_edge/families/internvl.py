"""InternVL3 and InternVL3.5 as transformers has them (the `-hf` checkpoints): tiles, pixel shuffle, Qwen2 or Qwen3."""

from typing import Any

import torch

from masters_edge.families.base import Family, register


@register
class InternVL(Family):
    """`pixel_values` `[tiles of all images, 3, side, side]`: an image's tiles, then its thumbnail if it has one."""

    model_types = ("internvl",)

    def image_tokens(self, config: Any, inputs: dict[str, torch.Tensor]) -> int:
        """Tiles times the patches of one, after pixel shuffle."""
        tiles, _, height, width = inputs["pixel_values"].shape
        rows, columns = config.vision_config.patch_size
        return int(tiles * (height // rows) * (width // columns) * config.downsample_ratio**2)
