"""From a picture to the pixels a student reads: SmolVLM's and Idefics3's preprocessing, on Pillow and numpy alone.

Equals transformers' PIL image processors (`image_processing_pil_smolvlm.py`): resize, split into frames with a small
copy of the whole picture as the last one, rescale, normalise, pad. In: a Pillow image and the settings of
`preprocessor_config.json`. Out: `Frames`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from masters_edge.errors import UserError
from masters_edge.pictures import to_rgb, upright

LONGEST_SIDE = 4096  # pixels; transformers' own bound on the resized picture


@dataclass(frozen=True)
class Frames:
    """`pixel_values` float32 [1, frames, 3, height, width], `pixel_attention_mask` bool [1, frames, height, width].

    `rows` and `columns` say how the picture was split; both are 0 where it wasn't.
    """

    pixel_values: np.ndarray
    pixel_attention_mask: np.ndarray
    rows: int
    columns: int


def open_image(source: Image.Image | Path | str) -> Image.Image:
    """The picture itself; a file is turned upright as its EXIF data say. Raises UserError for what is no picture."""
    if isinstance(source, Image.Image):
        return source
    try:
        with Image.open(source) as image:
            image.load()
            return upright(image)
    except FileNotFoundError:
        raise UserError(f"there is no image file {source}; check the path") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"the image {source} can't be read ({error}); give a whole PNG or JPEG") from None


def preprocess(image: Image.Image, settings: Mapping[str, Any]) -> Frames:
    """Do as the student's image processor does. `settings` are those of `preprocessor_config.json`."""
    if settings.get("do_convert_rgb", True):
        image = to_rgb(image)
    resample = Image.Resampling(settings.get("resample", Image.Resampling.LANCZOS))
    side = settings["max_image_size"]["longest_edge"]
    if settings.get("do_resize", True):
        image = image.resize(_first_size(image.size, settings["size"]), resample)
    rows = columns = 0
    if settings.get("do_image_splitting", True):
        image = image.resize(_tiled_size(image.size, side), resample)
        frames, rows, columns = _split(image, side, resample)
    else:
        frames = [image.resize((side, side), resample)]
    pixels = [_normalise(np.asarray(frame), settings) for frame in frames]
    height, width = (max(p.shape[axis] for p in pixels) for axis in (1, 2))
    values = np.zeros((1, len(pixels), 3, height, width), np.float32)
    mask = np.zeros((1, len(pixels), height, width), bool)
    for index, frame in enumerate(pixels):
        values[0, index, :, : frame.shape[1], : frame.shape[2]] = frame
        mask[0, index, : frame.shape[1], : frame.shape[2]] = True
    return Frames(values, mask, rows, columns)


def _first_size(size: tuple[int, int], wanted: Mapping[str, int]) -> tuple[int, int]:
    """(width, height) after the first resize: longest side as wanted, the other one rounded up to even."""
    if not wanted.get("longest_edge"):
        return wanted["width"], wanted["height"]
    width, height = size
    longest, ratio = wanted["longest_edge"], width / height
    if width >= height:
        width, height = longest, int(longest / ratio)
        height += height % 2
    else:
        width, height = int(longest * ratio), longest
        width += width % 2
    width, height = max(width, 1), max(height, 1)
    ratio = width / height
    if width >= height and width > LONGEST_SIDE:
        width, height = LONGEST_SIDE, int(LONGEST_SIDE / ratio)
    elif height > width and height > LONGEST_SIDE:
        width, height = int(LONGEST_SIDE * ratio), LONGEST_SIDE
    return max(width, 1), max(height, 1)


def _tiled_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) rounded up to whole frames of `side` pixels."""
    width, height = size
    ratio = width / height
    if width >= height:
        width = math.ceil(width / side) * side
        height = math.ceil(int(width / ratio) / side) * side
    else:
        height = math.ceil(height / side) * side
        width = math.ceil(int(height * ratio) / side) * side
    return width, height


def _split(image: Image.Image, side: int, resample: Image.Resampling) -> tuple[list[Image.Image], int, int]:
    """Frames of `side` pixels row by row, then the whole picture at that size; or the picture alone if it is small."""
    width, height = image.size
    if width <= side and height <= side:
        return [image], 0, 0
    rows, columns = height // side, width // side
    frames = [
        image.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
        for row in range(rows)
        for column in range(columns)
    ]
    return [*frames, image.resize((side, side), resample)], rows, columns


def _normalise(frame: np.ndarray, settings: Mapping[str, Any]) -> np.ndarray:
    """uint8 [height, width, 3] to float32 [3, height, width]; the order of the arithmetic is transformers' own."""
    values = frame
    if settings.get("do_rescale", True):
        values = (frame.astype(np.float64) * settings.get("rescale_factor", 1 / 255)).astype(np.float32)
    if settings.get("do_normalize", True):
        mean = np.asarray(settings.get("image_mean", (0.5, 0.5, 0.5)), np.float32)
        std = np.asarray(settings.get("image_std", (0.5, 0.5, 0.5)), np.float32)
        values = (values.astype(np.float32) - mean) / std
    return np.moveaxis(values, -1, 0).astype(np.float32)
