"""How long prompts are: from a sample of the recipe's questions where data and processors are at hand, else assumed.

In: recipe, shapes. Out: a `Prompt` per model, with one image as that model takes it, for tracing memory.
"""

import contextlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from masters_edge import data
from masters_edge.common.errors import UserError
from masters_edge.data.records import Question
from masters_edge.families import load_processor
from masters_edge.families.prompts import Prompter
from masters_edge.plan.shapes import Shape
from masters_edge.recipe import checkpoint

SAMPLE = 64  # questions
PICTURE = (1024, 768)  # pixels, width and height, where nothing is known
TEXT = 64  # tokens around an assumed picture
Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Prompt:
    """Prompts of one model.

    `mean` and `longest` in tokens, image placeholders included; `ids` and `image` are those of the longest;
    `vocabulary` is the tokenizer's length, which the loss looks at; `source` says where the figures come from.
    """

    mean: float
    longest: int
    ids: list[int]
    image: Inputs
    vocabulary: int
    source: str


def prompt(shape: Shape, source: str, questions: list[Question], tokens: int | None) -> Prompt:
    """Prompts of `shape`, loaded from `source`.

    `questions`: a sample of the recipe's; none where its data can't be read. `tokens`: mean length to assume instead.
    """
    processor = None
    with contextlib.suppress(UserError):  # a config alone: said in what is returned
        processor = load_processor(source) if questions or Path(source).is_dir() else None
    vocabulary = len(processor.tokenizer) if processor else shape.vocabulary
    if processor and questions and tokens is None:
        prompter = Prompter(processor, shape.family, shape.config)
        built = [prompter(question) for question in questions]
        lengths = [len(ids) for ids, _ in built]
        ids, image = max(built, key=lambda pair: len(pair[0]))
        said = f"{len(built)} of the recipe's questions"
        return Prompt(statistics.fmean(lengths), len(ids), ids, image, vocabulary, said)
    image = _IMAGES[shape.config.model_type](shape.config, *PICTURE)
    count = shape.family.image_tokens(shape.config, image)
    text = TEXT if tokens is None else tokens - count
    said = f"assumed: a picture of {PICTURE[0]:,} x {PICTURE[1]} pixels ({count:,} tokens) and {TEXT} of text"
    if tokens is not None:
        said = f"--prompt-tokens {tokens:,}"
        if text < 1:
            raise UserError(
                f"--prompt-tokens {tokens} is less than the {count} tokens of a picture of {PICTURE[0]} x {PICTURE[1]} "
                f"pixels in {shape.name}; ask for more"
            )
    start = [shape.config.image_token_id] * count
    ids = [*start, *[plain_token(shape)] * text]
    return Prompt(len(ids), len(ids), ids, image, vocabulary, said)


def plain_token(shape: Shape) -> int:
    """An id that stands for no image."""
    return next(i for i in range(10, 100) if i not in shape.family.placeholders(shape.config))


def sample(questions: list[Question], seed: int) -> list[Question]:
    return data.sample(questions, min(SAMPLE, len(questions)), seed)


def source_of(name: str, recipe_path: Path) -> str:
    """As `recipe.checkpoint`, but a folder that isn't there stays a name: only its shape is wanted."""
    try:
        return checkpoint(name, recipe_path)
    except UserError:
        return name


def _pixels(*size: int) -> torch.Tensor:
    return torch.full((1,), 0.5).expand(*size)


def _tiles(config: Any, width: int, height: int) -> Inputs:
    """SmolVLM, Idefics3: the longest edge is four tiles, and the whole picture is one more."""
    side = config.vision_config.image_size
    scale = 4 * side / max(width, height)
    tiles = -(-round(width * scale) // side) * -(-round(height * scale) // side) + 1
    return {
        "pixel_values": _pixels(1, tiles, 3, side, side),
        "pixel_attention_mask": torch.ones(1, tiles, side, side, dtype=torch.long),
    }


def _flat(config: Any, width: int, height: int) -> Inputs:
    """Qwen-VL: patches of a picture whose edges are rounded to whole tokens."""
    vision = config.vision_config
    edge = vision.patch_size * vision.spatial_merge_size
    rows, columns = (round(pixels / edge) * vision.spatial_merge_size for pixels in (height, width))
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {"pixel_values": _pixels(rows * columns, values), "image_grid_thw": torch.tensor([[1, rows, columns]])}


def _cropped(config: Any, width: int, height: int) -> Inputs:
    """InternVL: up to 12 tiles in the picture's proportions, and a thumbnail."""
    grids = [(c, r) for c in range(1, 13) for r in range(1, 13) if c * r <= 12]
    columns, rows = min(grids, key=lambda grid: (abs(grid[0] / grid[1] - width / height), -grid[0] * grid[1]))
    tiles = columns * rows
    high, wide = config.vision_config.image_size
    return {"pixel_values": _pixels(tiles + (tiles > 1), 3, high, wide)}


def _anyres(config: Any, width: int, height: int) -> Inputs:
    """LLaVA-OneVision: the whole picture, and tiles on the grid that suits it."""
    from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

    side = config.vision_config.image_size
    tiles = image_size_to_num_patches((height, width), config.image_grid_pinpoints, side)
    return {"pixel_values": _pixels(1, tiles, 3, side, side), "image_sizes": torch.tensor([[height, width]])}


_IMAGES: dict[str, Callable[[Any, int, int], Inputs]] = {
    "smolvlm": _tiles,
    "idefics3": _tiles,
    "qwen2_5_vl": _flat,
    "qwen3_vl": _flat,
    "internvl": _cropped,
    "llava_onevision": _anyres,
}
