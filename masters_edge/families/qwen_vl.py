"""Qwen2.5-VL and Qwen3-VL: images of any size as flat patches, three axes of positions (M-RoPE).

Qwen3-VL adds visual features to its first decoder layers as well (DeepStack); transformers' model does that itself.
"""

from typing import Any

import torch

from masters_edge.families.base import Family, register


@register
class QwenVL(Family):
    """`pixel_values` `[patches of all images, channels * frames * patch ** 2]`, `image_grid_thw` `[images, 3]`."""

    model_types = ("qwen2_5_vl", "qwen3_vl")

    def text_inputs(self, config: Any, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """`mm_token_type_ids` int64, 1 where an image stands; without them transformers counts one axis only."""
        return {"mm_token_type_ids": (input_ids == config.image_token_id).long()}

    def image_tokens(self, config: Any, inputs: dict[str, torch.Tensor]) -> int:
        """Patches, as large as the model takes them, over those that its merger joins."""
        vision = config.vision_config
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return inputs["pixel_values"].numel() // (values * vision.spatial_merge_size**2)

    def positions(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        images: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Time, height and width, `[3, rows, length]`, by the model's own `get_rope_index`."""
        positions, _ = model.base_model.get_rope_index(
            input_ids,
            image_grid_thw=images["image_grid_thw"],
            attention_mask=attention_mask,
            **self.text_inputs(model.config, input_ids),
        )
        return positions
