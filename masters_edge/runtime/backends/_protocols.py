"""What a runtime has to do for a student, and which one was taken."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

TOKENS = 16  # of each answer


@dataclass(frozen=True)
class Choice:
    """`ms`: median whole answer of each runtime measured; empty where there was nothing to choose from. `left_out`:
    runtimes that failed, and why. `measured_now`: False where the choice was kept from an earlier start. `not_kept`:
    why the choice couldn't be kept, if it couldn't. `died`: what became of faster settings, where
    `backend` names a slower one (`openvino:f32`)."""

    backend: str
    ms: dict[str, float]
    left_out: dict[str, str]
    measured_now: bool = False
    not_kept: str | None = None
    died: str | None = None

    @property
    def reason(self) -> str:
        """One line for people: what was taken, and why."""
        ordered = sorted(self.ms, key=self.ms.__getitem__)
        figures = ", ".join(f"{name} {self.ms[name]:.1f} ms" for name in ordered)
        words = [f"{self.backend}, the fastest here for an answer of {TOKENS} tokens ({figures})"]
        if not self.ms:
            words = [f"{self.backend}, the only runtime installed here for this bundle"]
        if self.died:
            words.append(self.died)
        words += [f"{name} was left out: {why}" for name, why in self.left_out.items()]
        if self.not_kept:
            words.append(f"{'measured' if self.ms else 'tried'} at every start, as {self.not_kept}")
        return "; ".join(words)


@dataclass(frozen=True)
class WholeQuestion:
    """A picture and a question for a backend that answers whole.

    `seen`: what the family made of the picture. `image_text`: what stands in the place of the chat template's
    `placeholder` once expanded. `input_ids`: the ids that `tokenizer` made of the expanded prompt.
    """

    seen: Any
    placeholder: str
    image_text: str
    input_ids: list[int]
    tokenizer: Tokenizer


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
    choice: Choice | None

    def answer(
        self,
        question: WholeQuestion,
        max_new_tokens: int,
        stop_ids: Collection[int],
        on_token: Callable[[int], None] | None = ...,
        top: int = 0,
    ) -> WholeAnswer:
        """Answer greedily; `on_token` hears each id as it comes; `top` asks for so many log-probabilities a place."""

    def picture(self, question: WholeQuestion) -> Image.Image | None:
        """The picture that the runtime cuts and shrinks by itself; None where it gets every frame as the student's."""

    def text_ms(self, tokens: int) -> float:
        """What a prompt of so many tokens takes without a picture."""


class Backend(Protocol):
    """Runs the three parts of a student. It holds the KV cache of one answer at a time (batch of one).

    `choice`: where `auto` took this backend, what else there was and how fast, else None.
    """

    name: str
    choice: Choice | None

    def vision(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """The vision part's inputs by name -> features float32 [image tokens, width]."""

    def embed(self, input_ids: np.ndarray) -> np.ndarray:
        """int64 [1, tokens] -> float32 [1, tokens, width]; a family may carry more than its hidden size."""

    def start(self, kept: int = 0) -> int:
        """Forget the KV cache but for its first `kept` tokens, or all of it; how many stayed."""

    def forward(self, inputs_embeds: np.ndarray, position_ids: np.ndarray, last: bool = False) -> np.ndarray:
        """The next tokens' float32 [1, tokens, width], int64 [1, tokens] or [3, 1, tokens] -> logits float32
        [1, tokens, vocab], or where `last` says that no others are asked for [1, 1, vocab]; the cache grows."""
