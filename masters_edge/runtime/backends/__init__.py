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
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from masters_edge.common.errors import UserError

if TYPE_CHECKING:
    from masters_edge.runtime.fastest import Choice


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
    """Sees the picture, reads the prompt and decodes by its own code. `choice`: see `Backend`."""

    name: str
    choice: "Choice | None"

    def answer(
        self,
        question: Question,
        max_new_tokens: int,
        stop_ids: Collection[int],
        on_token: Callable[[int], None] | None = ...,
        top: int = 0,
    ) -> WholeAnswer:
        """Answer greedily; `on_token` hears each id as it comes; `top` asks for so many log-probabilities a place."""

    def picture(self, question: Question) -> Image.Image | None:
        """The picture that the runtime cuts and shrinks by itself; None where it gets every frame as the student's."""

    def text_ms(self, tokens: int) -> float:
        """What a prompt of so many tokens takes without a picture."""


class Backend(Protocol):
    """Runs the three parts of a student. It holds the KV cache of one answer at a time (batch of one).

    `choice`: where `auto` took this backend, what else there was and how fast, else None.
    """

    name: str
    choice: "Choice | None"

    def vision(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """The vision part's inputs by name -> features float32 [image tokens, width]."""

    def embed(self, input_ids: np.ndarray) -> np.ndarray:
        """int64 [1, tokens] -> float32 [1, tokens, width]; a family may carry more than its hidden size."""

    def start(self, kept: int = 0) -> int:
        """Forget the KV cache but for its first `kept` tokens, or all of it; how many stayed."""

    def forward(self, inputs_embeds: np.ndarray, position_ids: np.ndarray, last: bool = False) -> np.ndarray:
        """The next tokens' float32 [1, tokens, width], int64 [1, tokens] or [3, 1, tokens] -> logits float32
        [1, tokens, vocab], or where `last` says that no others are asked for [1, 1, vocab]; the cache grows."""


def names() -> list[str]:
    """Every backend this version knows, installed or not."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def package(name: str) -> str:
    """The package that a backend runs on."""
    return importlib.import_module(f"{__name__}.{name}").PACKAGE


def modules() -> dict[str, ModuleType]:
    """Every backend's module by name; they import their runtime no earlier than they open."""
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names()}


def open_backend(
    name: str, target: str, folder: Path, graphs: dict[str, str], threads: int, exact: bool = False
) -> Backend | WholeBackend:
    """Load the bundle's graphs. `auto` takes what is fastest here (`fastest.py`); the backend's `choice` says why.

    Raises UserError for an unknown backend, or one that can't run this target.
    """
    if name == "auto":
        from masters_edge.runtime import fastest

        choice = fastest.choose(target, folder, graphs, threads, exact)
        opened = open_backend(choice.backend, target, folder, graphs, threads, exact)
        opened.choice = choice
        return opened
    if name not in names():
        raise UserError(f"there is no backend {name!r}; use one of: auto, {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    if target not in module.AVAILABLE_FOR:
        able = [other for other, module in modules().items() if target in module.AVAILABLE_FOR]
        raise UserError(f"a bundle for {target} can't run on backend {name!r}; use one of: auto, {', '.join(able)}")
    try:
        opened = module.open_backend(folder, graphs, threads, exact)
    except ImportError as error:
        raise UserError(
            f"{folder} is a bundle for {target}, which needs a package that can't be imported here ({error}); "
            f"run: pip install {module.PACKAGE}"
        ) from None
    opened.choice = None
    return opened
