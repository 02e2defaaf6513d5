"""Pictures on a device: opening them, and the arithmetic that every family's preprocessing ends with.

Pillow and numpy alone. Equals transformers' PIL image processors (`image_processing_backends.py`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from masters_edge.common.errors import UserError
from masters_edge.common.pictures import upright
from masters_edge.runtime import settings


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
    except Image.DecompressionBombError as error:
        raise UserError(f"the image {source} has too many pixels ({error}); make it smaller") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise UserError(f"the image {source} can't be read ({error}); give a whole PNG or JPEG") from None


def resize(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """The picture at `size` (width, height); raises UserError where a bundle's settings ask for far too many pixels."""
    check_pixels(size)
    return image.resize(size, resample)


def check_pixels(size: tuple[int, int]) -> None:
    """Raise UserError for a picture of `size` (width, height) that no student reads."""
    if not 0 < size[0] * size[1] <= settings.MOST_PIXELS:
        raise UserError(
            f"the bundle's settings make {size[0]} x {size[1]} pixels of the picture, and {settings.MOST_PIXELS:,} are "
            "the most that are read; give another picture, or export the bundle again"
        )


def check_tiles(count: int) -> None:
    """Raise UserError for a picture in more tiles than any student reads."""
    if count > settings.MOST_TILES:
        raise UserError(
            f"the bundle's settings cut the picture into {count:,} tiles, and {settings.MOST_TILES:,} are the most "
            "that are read; give a smaller picture, or export the bundle again"
        )


def normalise(frame: np.ndarray, settings: Mapping[str, Any]) -> np.ndarray:
    """uint8 [height, width, 3] to float32 [3, height, width]; the order of the arithmetic is transformers' own."""
    values = frame
    if settings.get("do_rescale", True):
        values = (frame.astype(np.float64) * settings.get("rescale_factor", 1 / 255)).astype(np.float32)
    if settings.get("do_normalize", True):
        mean = np.asarray(settings.get("image_mean", (0.5, 0.5, 0.5)), np.float32)
        std = np.asarray(settings.get("image_std", (0.5, 0.5, 0.5)), np.float32)
        values = (values.astype(np.float32) - mean) / std
    return np.moveaxis(values, -1, 0).astype(np.float32)
