"""SmolVLM and Idefics3 on a device: preprocessing with frames, and the text that stands for them.

Equals transformers' `image_processing_pil_smolvlm.py` and the two processors: resize, split into frames with a small
copy of the whole picture as the last one, rescale, normalise, pad.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import model_validator

from masters_edge.common.pictures import to_rgb
from masters_edge.runtime import settings
from masters_edge.runtime.families import ImageTokenId, Seen, plain_positions, repeated, special_tokens
from masters_edge.runtime.images import check_tiles, normalise, resize

MODEL_TYPES = ("smolvlm", "idefics3")
LONGEST_SIDE = 4096  # pixels; transformers' own bound on the resized picture


@dataclass(frozen=True)
class Frames(Seen):
    """`inputs`: pixel_values float32 [1, frames, 3, h, w], pixel_attention_mask bool [1, frames, h, w].

    `rows` and `columns` say how the picture was split; both are 0 where it wasn't.
    """

    rows: int
    columns: int


class Longest(settings.Read):
    """A longest side, or both."""

    longest_edge: settings.Side | None = None
    height: settings.Side | None = None
    width: settings.Side | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Longest":
        if self.longest_edge is None and None in (self.height, self.width):
            raise ValueError("longest_edge is missing, or height and width")
        return self


class LongestSide(settings.Read):
    """Of one frame."""

    longest_edge: settings.Side


class FramePixels(settings.Pixels):
    """`preprocessor_config.json`."""

    do_image_splitting: settings.Flag = None
    max_image_size: LongestSide
    size: Longest


class Features(settings.Read):
    """`processor_config.json`: image tokens of a frame."""

    image_seq_len: settings.Tokens


def open_family(folder: Path) -> "SmolVlm":
    """What the bundle's settings make of pictures; raises UserError where a file is missing or broken."""
    return SmolVlm(folder)


class SmolVlm:
    """The family's side of a prompt, as `Family` in `families/__init__.py` says."""

    def __init__(self, folder: Path) -> None:
        special = special_tokens(folder)
        self.settings = settings.checked(folder, "preprocessor_config.json", FramePixels)
        self.image_token_id = settings.read(folder, "config.json", ImageTokenId).image_token_id
        self.placeholder = special.get("image_token", "<image>")
        self._features = settings.read(folder, "processor_config.json", Features).image_seq_len
        self._fake = special.get("fake_image_token", "<fake_token_around_image>")
        self._whole = special.get("global_image_token", "<global-img>")

    def look(self, image: Image.Image) -> Frames:
        return preprocess(image, self.settings)

    def image_text(self, seen: Frames) -> str:
        frame = repeated(self.placeholder, self._features, 1 + seen.rows * seen.columns)
        whole = f"{self._fake}{self._whole}{frame}{self._fake}"
        if seen.rows == 0 and seen.columns == 0:
            return whole
        lines = (
            "".join(f"{self._fake}<row_{row}_col_{column}>{frame}" for column in range(1, seen.columns + 1))
            for row in range(1, seen.rows + 1)
        )
        return "".join(f"{line}\n" for line in lines) + f"\n{whole}"

    def positions(self, input_ids: np.ndarray, seen: Frames) -> tuple[np.ndarray, int]:
        return plain_positions(input_ids)


def preprocess(image: Image.Image, settings: Mapping[str, Any]) -> Frames:
    """Do as the student's image processor does. `settings` are those of `preprocessor_config.json`."""
    if settings.get("do_convert_rgb", True):
        image = to_rgb(image)
    resample = Image.Resampling(settings.get("resample", Image.Resampling.LANCZOS))
    side = settings["max_image_size"]["longest_edge"]
    if settings.get("do_resize", True):
        image = resize(image, _first_size(image.size, settings["size"]), resample)
    rows = columns = 0
    if settings.get("do_image_splitting", True):
        image = resize(image, _tiled_size(image.size, side), resample)
        frames, rows, columns = _split(image, side, resample)
    else:
        frames = [resize(image, (side, side), resample)]
    pixels = [normalise(np.asarray(frame), settings) for frame in frames]
    height, width = (max(p.shape[axis] for p in pixels) for axis in (1, 2))
    values = np.zeros((1, len(pixels), 3, height, width), np.float32)
    mask = np.zeros((1, len(pixels), height, width), bool)
    for index, frame in enumerate(pixels):
        values[0, index, :, : frame.shape[1], : frame.shape[2]] = frame
        mask[0, index, : frame.shape[1], : frame.shape[2]] = True
    return Frames({"pixel_values": values, "pixel_attention_mask": mask}, rows, columns)


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
    check_tiles(rows * columns)
    frames = [
        image.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
        for row in range(rows)
        for column in range(columns)
    ]
    return [*frames, resize(image, (side, side), resample)], rows, columns
