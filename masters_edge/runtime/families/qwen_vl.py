"""Qwen2.5-VL and Qwen3-VL on a device: pictures of any size as flat patches, positions on three axes (M-RoPE).

Equals transformers' `image_processing_pil_qwen2_vl.py`, the two processors, and `get_rope_index` for one picture.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from masters_edge.common.errors import UserError
from masters_edge.common.pictures import to_rgb
from masters_edge.runtime import settings
from masters_edge.runtime.families import ImageTokenId, Seen, repeated, special_tokens
from masters_edge.runtime.images import normalise, resize

MODEL_TYPES = ("qwen2_5_vl", "qwen3_vl")
LONGEST_TO_SHORTEST = 200  # transformers' own bound on a picture's shape


class Area(settings.Read):
    """Pixels of a whole picture, called as transformers calls them."""

    shortest_edge: Annotated[int, Field(ge=1, le=1 << 24)]
    longest_edge: Annotated[int, Field(ge=1, le=settings.MOST_PIXELS)]

    @model_validator(mode="after")
    def _ordered(self) -> "Area":
        if self.shortest_edge > self.longest_edge:
            raise ValueError("shortest_edge is larger than longest_edge")
        return self


class PatchPixels(settings.Pixels):
    """`preprocessor_config.json`."""

    patch_size: Annotated[int, Field(ge=1, le=512)]
    merge_size: settings.Small
    temporal_patch_size: settings.Small
    size: Area


def open_family(folder: Path) -> "QwenVl":
    """What the bundle's settings make of pictures; raises UserError where a file is missing or broken."""
    return QwenVl(folder)


class QwenVl:
    """The family's side of a prompt, as `Family` in `families/__init__.py` says.

    A `Seen` has pixel_values float32 [patches, values], image_grid_thw int64 [1, 3]: frames, rows, columns of patches.
    """

    def __init__(self, folder: Path) -> None:
        special = special_tokens(folder)
        self.settings = settings.checked(folder, "preprocessor_config.json", PatchPixels)
        self.image_token_id = settings.read(folder, "config.json", ImageTokenId).image_token_id
        self.placeholder = special.get("image_token", "<|image_pad|>")

    def look(self, image: Image.Image) -> Seen:
        return preprocess(image, self.settings)

    def image_text(self, seen: Seen) -> str:
        rows, columns = self._tokens(seen)
        return repeated(self.placeholder, rows * columns)

    def positions(self, input_ids: np.ndarray, seen: Seen) -> tuple[np.ndarray, int]:
        """Text counts on on all three axes; the picture's tokens stand at one time, at their row and column, and what
        comes after the picture goes on behind its longer side."""
        rows, columns = self._tokens(seen)
        places = np.arange(input_ids.shape[1], dtype=np.int64)
        first = int(np.argmax(input_ids[0] == self.image_token_id))
        token = places - first
        picture = (token >= 0) & (token < rows * columns)
        saved = rows * columns - max(rows, columns)
        text = places - np.where(token >= rows * columns, saved, 0)
        axes = (0, token // columns, token % columns)
        positions = np.stack([np.where(picture, first + axis, text) for axis in axes])
        return positions[:, None, :], len(places) - saved

    def _tokens(self, seen: Seen) -> tuple[int, int]:
        """Rows and columns of tokens: the model merges squares of patches."""
        _, rows, columns = (int(side) for side in seen.inputs["image_grid_thw"][0])
        merge = self.settings["merge_size"]
        return rows // merge, columns // merge


def preprocess(image: Image.Image, settings: Mapping[str, Any]) -> Seen:
    """Do as the student's image processor does. `settings` are those of `preprocessor_config.json`."""
    if settings.get("do_convert_rgb", True):
        image = to_rgb(image)
    patch, merge = settings["patch_size"], settings["merge_size"]
    if settings.get("do_resize", True):
        size = _fitting_size(image.size, patch * merge, settings["size"])
        image = resize(image, size, Image.Resampling(settings.get("resample", Image.Resampling.BICUBIC)))
    pixels = normalise(np.asarray(image), settings)
    channels, height, width = pixels.shape
    if height % (patch * merge) or width % (patch * merge):
        raise UserError(
            f"the image is {width} x {height} pixels, and the bundle, which resizes none, reads whole blocks of "
            f"{patch * merge}; resize it first"
        )
    rows, columns = height // patch, width // patch
    blocks = pixels.reshape(channels, rows // merge, merge, patch, columns // merge, merge, patch)
    # To [block rows, block columns, rows in it, columns in it, channels, patch rows, patch columns]; then a still
    # picture is shown for as many frames as a patch is long.
    patches = blocks.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    patches = patches.repeat(settings["temporal_patch_size"], axis=5)
    return Seen(
        {
            "pixel_values": patches.reshape(rows * columns, -1),
            "image_grid_thw": np.asarray([[1, rows, columns]], np.int64),
        }
    )


def _fitting_size(size: tuple[int, int], factor: int, area: Mapping[str, int]) -> tuple[int, int]:
    """(width, height) in whole blocks of `factor` pixels, near the picture's shape, its area between the two bounds
    (called shortest_edge and longest_edge, in pixels); transformers' `smart_resize`."""
    width, height = size
    if max(size) / min(size) > LONGEST_TO_SHORTEST:
        raise UserError(
            f"the image is {width} x {height} pixels; crop it until no side is over "
            f"{LONGEST_TO_SHORTEST} times the other"
        )
    across, along = round(width / factor) * factor, round(height / factor) * factor
    if across * along > area["longest_edge"]:
        shrink = math.sqrt((height * width) / area["longest_edge"])
        across = max(factor, math.floor(width / shrink / factor) * factor)
        along = max(factor, math.floor(height / shrink / factor) * factor)
    elif across * along < area["shortest_edge"]:
        grow = math.sqrt(area["shortest_edge"] / (height * width))
        across = math.ceil(width * grow / factor) * factor
        along = math.ceil(height * grow / factor) * factor
    return across, along
