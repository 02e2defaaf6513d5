"""A Qwen's picture sizes are those of transformers, and what it can't take is said."""

import random

import numpy as np
import pytest
from PIL import Image

from masters_edge.common.errors import UserError
from masters_edge.runtime.families.qwen_vl import preprocess

SETTINGS = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}


@pytest.mark.parametrize(
    "area", [{"shortest_edge": 56**2, "longest_edge": 150_000}, {"shortest_edge": 1, "longest_edge": 3136}]
)
def test_sizes_equal_transformers(area: dict[str, int]) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    rng = random.Random(0)
    sizes = [(rng.randint(1, 700), rng.randint(1, 700)) for _ in range(40)] + [(42, 70), (14, 14), (1, 200), (200, 1)]
    for width, height in sizes:
        if max(width, height) > 200 * min(width, height):
            continue
        height_there, width_there = smart_resize(height, width, 28, area["shortest_edge"], area["longest_edge"])
        found = preprocess(Image.new("RGB", (width, height)), {**SETTINGS, "size": area}).inputs
        expected = [[1, height_there // 14, width_there // 14]]
        assert found["image_grid_thw"].tolist() == expected
        assert found["pixel_values"].shape == (int(np.prod(expected)), 3 * 2 * 14 * 14)


def test_a_picture_like_a_thread_is_refused() -> None:
    with pytest.raises(UserError, match="image is 3 x 700 pixels; crop it until no side is over 200 times the other"):
        preprocess(Image.new("RGB", (3, 700)), {**SETTINGS, "size": {"shortest_edge": 3136, "longest_edge": 10**6}})
