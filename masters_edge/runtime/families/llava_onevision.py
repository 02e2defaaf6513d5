"""LLaVA-OneVision on a device: the whole picture and its tiles, and how the encoder's features become the prompt's.

Equals transformers' `image_processing_pil_llava_onevision.py`, and does the geometry of the model's
`pack_image_features`: which features stay when the padding goes, how they thin out where they are too many, where a
newline stands. The vision graph only follows it: each feature of the prompt is a weighted sum of up to four rows.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from masters_edge.common.pictures import to_rgb
from masters_edge.runtime import settings
from masters_edge.runtime.families import Seen, plain_positions, repeated, special_tokens
from masters_edge.runtime.images import check_pixels, normalise, resize

MODEL_TYPES = ("llava_onevision",)
_ROOM = 1.1  # features thin out once their grid is this many times too long


class AnyresPixels(settings.Pixels):
    """`preprocessor_config.json`."""

    size: settings.Square
    image_grid_pinpoints: settings.Pinpoints

    @model_validator(mode="after")
    def _fit(self) -> "AnyresPixels":
        if self.size.height != self.size.width:
            raise ValueError("size: tiles are squares")
        _check_pinpoints(self.image_grid_pinpoints, self.size.height)
        return self


class Tower(settings.Read):
    """Pixels of a tile, and of a patch."""

    image_size: settings.Side
    patch_size: settings.Side


class Anyres(settings.Read):
    """`config.json`."""

    image_token_index: settings.TokenId
    image_grid_pinpoints: settings.Pinpoints
    vision_aspect_ratio: Annotated[str, Field(pattern=r"^anyres_max_[1-9]\d{0,3}$")]
    vision_config: Tower

    @model_validator(mode="after")
    def _fit(self) -> "Anyres":
        vision = self.vision_config
        if vision.patch_size > vision.image_size:
            raise ValueError("vision_config: patch_size is larger than image_size")
        _check_pinpoints(self.image_grid_pinpoints, vision.image_size)
        most = max(height * width for height, width in self.image_grid_pinpoints) // vision.patch_size**2
        if most > settings.MOST_IMAGE_TOKENS:
            raise ValueError(f"image_grid_pinpoints: {most} patches, and {settings.MOST_IMAGE_TOKENS} are the most")
        return self


def _check_pinpoints(pinpoints: Sequence[Sequence[int]], side: int) -> None:
    tiles = [(height // side) * (width // side) for height, width in pinpoints]
    if min(tiles) < 1 or max(tiles) > settings.MOST_TILES or len(tiles) > settings.MOST_TILES:
        raise ValueError(f"image_grid_pinpoints: no grids of 1 to {settings.MOST_TILES} tiles of {side} pixels")


def open_family(folder: Path) -> "LlavaOnevision":
    """What the bundle's settings make of pictures; raises UserError where a file is missing or broken."""
    return LlavaOnevision(folder)


class LlavaOnevision:
    """The family's side of a prompt, as `Family` in `families/__init__.py` says.

    A `Seen` has pixel_values float32 [tiles, 3, side, side], the whole picture first, and `packing`'s two arrays.
    """

    def __init__(self, folder: Path) -> None:
        special = special_tokens(folder)
        self.settings = settings.checked(folder, "preprocessor_config.json", AnyresPixels)
        self.config = settings.checked(folder, "config.json", Anyres)
        self.image_token_id = int(self.config["image_token_index"])
        self.placeholder = special.get("image_token", "<image>")

    def look(self, image: Image.Image) -> Seen:
        values = preprocess(image, self.settings)
        width, height = image.size
        return Seen({"pixel_values": values, **packing((height, width), self.config)})

    def image_text(self, seen: Seen) -> str:
        return repeated(self.placeholder, len(seen.inputs["feature_rows"]))

    def positions(self, input_ids: np.ndarray, seen: Seen) -> tuple[np.ndarray, int]:
        return plain_positions(input_ids)


def preprocess(image: Image.Image, settings: Mapping[str, Any]) -> np.ndarray:
    """float32 [tiles, 3, side, side]: the whole picture, then its tiles. `settings`: `preprocessor_config.json`."""
    if settings.get("do_convert_rgb", True):
        image = to_rgb(image)
    resample = Image.Resampling(settings.get("resample", Image.Resampling.BICUBIC))
    side = settings["size"]["height"]
    rows, columns = (length // side for length in _resolution(image.size[::-1], settings["image_grid_pinpoints"]))
    canvas = _fit(image, (columns * side, rows * side), resample)
    frames = [resize(image, (settings["size"]["width"], side), resample)]
    frames += [
        canvas.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
        for row in range(rows)
        for column in range(columns)
    ]
    return np.stack([normalise(np.asarray(frame), settings) for frame in frames])


def packing(size: tuple[int, int], config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """How features of a picture of `size` (height, width) are packed. `config`: the model's own.

    Its encoder leaves a table: side * side features of the whole picture, as many of each tile, the newline last.
    feature_rows int64 [features, 4] and feature_weights float32 [features, 4] say which of its rows to sum, and how.
    """
    vision = config["vision_config"]
    side = vision["image_size"] // vision["patch_size"]
    rows, columns = (n // vision["image_size"] for n in _resolution(size, config["image_grid_pinpoints"]))
    newline = (1 + rows * columns) * side * side
    grid = _unpadded(_grid(rows, columns, side), size)
    most = int(config["vision_aspect_ratio"].removeprefix("anyres_max_"))
    ratio = math.sqrt(grid.size / (most * side * side))
    if ratio > _ROOM:
        wanted = int(grid.shape[0] // ratio), int(grid.shape[1] // ratio)
        index, weights = _thinned(grid, wanted)
    else:
        index, weights = _alone(grid)
    ends, whole = _alone(np.full((len(index), 1), newline)), _alone(np.arange(side * side))
    index = np.concatenate([index, ends[0]], axis=1).reshape(-1, 4)
    weights = np.concatenate([weights, ends[1]], axis=1).reshape(-1, 4)
    return {
        "feature_rows": np.concatenate([whole[0], index]),
        "feature_weights": np.concatenate([whole[1], weights]),
    }


def _resolution(size: tuple[int, int], choices: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The (height, width) among `choices` that keeps most of the picture and, among equals, wastes least."""
    height, width = size

    def worth(choice: Sequence[int]) -> tuple[int, int]:
        scale = min(choice[1] / width, choice[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - choice[0] * choice[1]

    best = max(choices, key=worth)
    return best[0], best[1]


def _fit(image: Image.Image, canvas: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """The picture as large as fits, in the middle of a black canvas (width, height)."""
    across, down = canvas[0] / image.width, canvas[1] / image.height
    if across < down:
        size = canvas[0], min(math.ceil(image.height * across), canvas[1])
    else:
        size = min(math.ceil(image.width * down), canvas[0]), canvas[1]
    check_pixels(canvas)
    fitted = Image.new("RGB", canvas)
    fitted.paste(image.resize(size, resample), ((canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2))
    return fitted


def _grid(rows: int, columns: int, side: int) -> np.ndarray:
    """int64 [rows * side, columns * side]: where in the table the tiles' features lie."""
    places = side * side + np.arange(rows * columns * side * side, dtype=np.int64)
    return places.reshape(rows, columns, side, side).swapaxes(1, 2).reshape(rows * side, columns * side)


def _unpadded(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The grid without the rows, or columns, that show nothing but padding."""
    (rows, columns), (height, width) = grid.shape, size
    if width / height > columns / rows:
        padding = (rows - int(round(height * (columns / width), 7))) // 2
        return grid[padding : rows - padding]
    padding = (columns - int(round(width * (rows / height), 7))) // 2
    return grid[:, padding : columns - padding]


def _alone(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every place of the grid as a sum of one: rows int64 [..., 4], weights float32 [..., 4]."""
    index = np.stack([grid.astype(np.int64)] * 4, axis=-1)
    return index, np.broadcast_to(np.asarray([1, 0, 0, 0], np.float32), index.shape)


def _thinned(grid: np.ndarray, wanted: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear interpolation to `wanted`, as `torch.nn.functional.interpolate` does it without aligned corners."""
    (top, bottom, down), (left, right, across) = (_between(n, m) for n, m in zip(grid.shape, wanted))
    corners = [grid[np.ix_(y, x)] for y in (top, bottom) for x in (left, right)]
    weights = [y[:, None] * x[None, :] for y in (1 - down, down) for x in (1 - across, across)]
    return np.stack(corners, axis=-1), np.stack(weights, axis=-1)


def _between(have: int, want: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `want` places along `have`: the one before, the one after, and the weight of the latter (float32)."""
    scale = float(np.float32(have) / np.float32(want))
    # torch multiplies and subtracts in one step, rounded once.
    places = np.maximum((np.arange(want) + 0.5) * scale - 0.5, 0).astype(np.float32)
    before = places.astype(np.int64)
    return before, np.minimum(before + 1, have - 1), places - before.astype(np.float32)
