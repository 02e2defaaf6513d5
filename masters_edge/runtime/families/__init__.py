"""What a model family does to a picture and a prompt before the graphs run: one file each, found by model type.

A family's module has `MODEL_TYPES` (values of `config.model_type`) and `open_family(folder) -> Family`. A new family
touches no other file. Everything equals transformers' own processors, on numpy and Pillow alone.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from masters_edge.common import inside
from masters_edge.common.errors import UserError
from masters_edge.common.plain import line
from masters_edge.runtime import settings

# The key of a bundle's `config.json` with the student's own family, where another runtime knows it by another name.
OWN_MODEL_TYPE = "masters_edge_model_type"
LONGEST_TOKEN = 1000  # characters


@dataclass(frozen=True)
class Seen:
    """One preprocessed picture: `inputs` are the vision part's, by name, with a batch of one where they have one."""

    inputs: dict[str, np.ndarray]


class Family(Protocol):
    """`placeholder` is what the chat template writes in place of the picture; `image_token_id` is the id repeated for
    each of its features once the prompt is expanded."""

    placeholder: str
    image_token_id: int

    def look(self, image: Image.Image) -> Any:
        """Preprocess: a `Seen`, or what the family derives from it."""

    def image_text(self, seen: Any) -> str:
        """What stands in the placeholder's place once expanded."""

    def positions(self, input_ids: np.ndarray, seen: Any) -> tuple[np.ndarray, int]:
        """int64 [1, T] -> position_ids int64 [1, T] or [3, 1, T], and the position that comes after the prompt."""


def open_family(model_type: str, folder: Path) -> Family:
    """The family of a bundle's `config.json`; raises UserError that names those known."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    for module in modules:
        if model_type in module.MODEL_TYPES:
            return module.open_family(folder)
    known = ", ".join(sorted(name for module in modules for name in module.MODEL_TYPES))
    raise UserError(f"{folder} holds a student of model_type {model_type!r}; this masters-edge answers with: {known}")


def plain_positions(input_ids: np.ndarray) -> tuple[np.ndarray, int]:
    """0, 1, 2 ...: the positions of families that count tokens."""
    length = input_ids.shape[1]
    return np.arange(length, dtype=np.int64)[None], length


class ImageTokenId(settings.Read):
    """Of `config.json`."""

    image_token_id: settings.TokenId


class Tokenizer(settings.Read):
    """Of `tokenizer_config.json`: tokens that a family has besides `bos_token` and the like."""

    model_specific_special_tokens: dict[str, Any] | None = None


def special_tokens(folder: Path) -> dict[str, str]:
    """`bos_token`, `image_token` and the like with their text, as templates and placeholders name them.

    Raises UserError where a text is no text, or far longer than a token is.
    """
    config = settings.checked(folder, "tokenizer_config.json", Tokenizer)
    found = dict(config.get("model_specific_special_tokens") or {})
    found.update((k, v) for k, v in config.items() if k.endswith("_token"))
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in found.items()}
    special = {name: text for name, text in texts.items() if isinstance(text, str)}
    for name, text in special.items():
        if len(text) > LONGEST_TOKEN or not text.isascii() and any("\ud800" <= one <= "\udfff" for one in text):
            raise UserError(f"{folder / 'tokenizer_config.json'}: {line(name, 80)} is no token's text; {inside.AGAIN}")
    return special


def repeated(placeholder: str, count: int, frames: int = 1) -> str:
    """What stands for a frame of so many tokens; raises UserError where a picture of so many frames has too many."""
    if not placeholder:
        raise UserError(f"the bundle's tokenizer has no text for the place of a picture; {inside.AGAIN}")
    if count * frames > settings.MOST_IMAGE_TOKENS:
        raise UserError(
            f"the bundle's settings make {count * frames:,} tokens of the picture, and {settings.MOST_IMAGE_TOKENS:,} "
            "are the most that are read; give a smaller picture, or export the bundle again"
        )
    return placeholder * count
