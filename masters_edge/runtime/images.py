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
