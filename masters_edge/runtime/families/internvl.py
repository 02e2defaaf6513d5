"""InternVL3 and InternVL3.5 on a device: the picture cut into square tiles with a thumbnail, and the text for them.

Equals transformers' `image_processing_pil_got_ocr2.py` as `InternVLProcessor` calls it: the canvas of tiles whose shape
is nearest the picture's, the picture stretched to it and cut, and behind several tiles the whole picture once more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from masters_edge.common.pictures import to_rgb
from masters_edge.runtime import settings
from masters_edge.runtime.families import ImageTokenId, Seen, plain_positions, repeated, special_tokens
from masters_edge.runtime.images import normalise, resize

MODEL_TYPES = ("internvl",)


@dataclass(frozen=True)
class Tiles(Seen):
    """`inputs`: pixel_values float32 [tiles, 3, h, w]; `count` is the number of tiles, the thumbnail among them.

    `rows` and `columns` say how the picture was cut; one each where it wasn't.
    """

    count: int
    rows: int
    columns: int


class TilePixels(settings.Pixels):
    """`preprocessor_config.json`."""

    size: settings.Square
    min_patches: settings.Tiles = 1
    max_patches: settings.Tiles = 12


class Features(settings.Read):
    """`processor_config.json`: image tokens of a tile."""

    image_seq_length: settings.Tokens


def open_family(folder: Path) -> "InternVl":
    """What the bundle's settings make of pictures; raises UserError where a file is missing or broken."""
    return InternVl(folder)


class InternVl:
    """The family's side of a prompt, as `Family` in `families/__init__.py` says."""

    def __init__(self, folder: Path) -> None:
        special = special_tokens(folder)
        self.settings = settings.checked(folder, "preprocessor_config.json", TilePixels)
        self.image_token_id = settings.read(folder, "config.json", ImageTokenId).image_token_id
        self.placeholder = special.get("context_image_token", "<IMG_CONTEXT>")
        self._start = special.get("start_image_token", "<img>")
        self._end = special.get("end_image_token", "</img>")
        self._features = settings.read(folder, "processor_config.json", Features).image_seq_length

    def look(self, image: Image.Image) -> Tiles:
        return preprocess(image, self.settings)

    def image_text(self, seen: Tiles) -> str:
        return f"{self._start}{repeated(self.placeholder, self._features * seen.count)}{self._end}"

    def positions(self, input_ids: np.ndarray, seen: Tiles) -> tuple[np.ndarray, int]:
        return plain_positions(input_ids)


def preprocess(image: Image.Image, settings: Mapping[str, Any]) -> Tiles:
    """Do as the student's processor does. `settings` are those of `preprocessor_config.json`.

    Their `crop_to_patches` is not asked: `InternVLProcessor` has tiles cut whatever its image processor says.
    """
    if settings.get("do_convert_rgb", True):
        image = to_rgb(image)
    resample = Image.Resampling(settings.get("resample", Image.Resampling.BICUBIC))
    height, width = settings["size"]["height"], settings["size"]["width"]
    fewest, most = settings.get("min_patches", 1), settings.get("max_patches", 12)
    columns, rows = _canvas(image.size, (width, height), fewest, most) if most > 1 else (1, 1)
    canvas = resize(image, (width * columns, height * rows), resample)
    tiles = [
        canvas.crop((column * width, row * height, (column + 1) * width, (row + 1) * height))
        for row in range(rows)
        for column in range(columns)
    ]
    if len(tiles) > 1:
        tiles.append(resize(image, (width, height), resample))
    values = np.stack([normalise(np.asarray(tile), settings) for tile in tiles])
    return Tiles({"pixel_values": values}, len(tiles), rows, columns)


def _canvas(size: tuple[int, int], tile: tuple[int, int], fewest: int, most: int) -> tuple[int, int]:
    """(columns, rows) nearest the picture's shape; among equals the larger, while the picture fills half of it."""
    width, height = size
    canvases = [
        (columns, rows)
        for columns in range(1, most + 1)
        for rows in range(1, most + 1)
        if fewest <= columns * rows <= most
    ]
    canvases.sort(key=lambda canvas: canvas[0] * canvas[1])
    best, nearest = (1, 1), float("inf")
    for columns, rows in canvases:
        distance = abs(width / height - columns / rows)
        fills = width * height > 0.5 * tile[0] * tile[1] * columns * rows
        if distance < nearest or (distance == nearest and fills):
            best, nearest = (columns, rows), distance
    return best
