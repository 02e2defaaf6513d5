"""Runtimes a student can run on: one file per backend, found by its name. A new backend touches no other file.

Most run the student's three parts, one by one (`Backend`). llama.cpp answers whole questions by its own code
(`WholeBackend`). A backend's module names the `PACKAGE` it needs, which it imports when it opens, says with
`AVAILABLE_FOR` which bundle targets it runs, and makes one of the two with `open_backend(folder, graphs, threads,
exact)`. `exact` asks for the most exact arithmetic the runtime has, False for the fast one that ships.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from masters_edge.errors import UserError


@dataclass(frozen=True)
class Question:
    """A picture and a question for a backend that answers whole.

    `seen`: what the family made of the picture. `prompt`: the chat template's text, the picture still `placeholder`.
    `image_text`: what stands in the placeholder's place once expanded. `input_ids`: the expanded prompt's ids.
    """

    seen: Any
    prompt: str
    placeholder: str
    image_text: str
    input_ids: list[int]


@dataclass(frozen=True)
class WholeAnswer:
    """`token_ids` end with the id that stopped the answer, if one did.

    By the runtime's own clock: `prompt_ms` for picture and prompt together (see `WholeBackend.text_ms`), `decode_ms`
    for the tokens after the first. `top`: place in the answer -> the likeliest ids there with their log-probabilities;
    a place the runtime doesn't tell of is missing.
    """

    token_ids: list[int]
    prompt_ms: float
    decode_ms: float
    top: dict[int, dict[int, float]]


class WholeBackend(Protocol):
    """Sees the picture, reads the prompt and decodes by its own code."""

    name: str

    def answer(
        self,
        question: Question,
        max_new_tokens: int,
        stop_ids: Collection[int],
        on_token: Callable[[int], None] = ...,
        top: int = 0,
    ) -> WholeAnswer:
        """Answer greedily; `on_token` hears each id as it comes; `top` asks for so many log-probabilities a place."""

    def picture(self, question: Question) -> Image.Image | None:
        """The picture that the runtime cuts and shrinks by itself; None where it gets every frame as the student's."""

    def text_ms(self, tokens: int) -> float:
        """What a prompt of so many tokens takes without a picture."""


class Backend(Protocol):
    """Runs the three parts of a student. It holds the KV cache of one answer at a time (batch of one)."""

    name: str

    def vision(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """The vision part's inputs by name -> features float32 [image tokens, width]."""

    def embed(self, input_ids: np.ndarray) -> np.ndarray:
        """int64 [1, tokens] -> float32 [1, tokens, width]; a family may carry more than its hidden size."""

    def start(self) -> None:
        """Forget the KV cache."""

    def forward(self, inputs_embeds: np.ndarray, position_ids: np.ndarray) -> np.ndarray:
        """The next tokens' float32 [1, tokens, width], int64 [1, tokens] or [3, 1, tokens] -> logits float32
        [1, tokens, vocab]; the cache grows."""


def names() -> list[str]:
    """Every backend this version knows, installed or not."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def package(name: str) -> str:
    """The package that a backend runs on."""
    return importlib.import_module(f"{__name__}.{name}").PACKAGE


def open_backend(
    name: str, target: str, folder: Path, graphs: dict[str, str], threads: int, exact: bool = False
) -> Backend | WholeBackend:
    """Load the bundle's graphs. `auto` takes the first backend that is made for the target.

    Raises UserError for an unknown backend, or one that can't run this target.
    """
    known = names()
    if name != "auto" and name not in known:
        raise UserError(f"there is no backend {name!r}; use one of: auto, {', '.join(known)}")
    for candidate in known if name == "auto" else [name]:
        module = importlib.import_module(f"{__name__}.{candidate}")
        if target in module.AVAILABLE_FOR:
            try:
                return module.open_backend(folder, graphs, threads, exact)
            except ImportError as error:
                raise UserError(
                    f"{folder} is a bundle for {target}, which needs a package that can't be imported here ({error}); "
                    f"run: pip install {module.PACKAGE}"
                ) from None
    raise UserError(f"a bundle for {target} can't run on backend {name!r}; use one of: auto, {', '.join(known)}")
