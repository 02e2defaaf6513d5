"""What can be measured: our own bundles, and what a user would otherwise run. One module per kind of subject.

A module has
    fingerprint(path) -> str                          which files these are
    packages(path, backend) -> tuple[str, ...]        what it runs on (pip names)
    runtimes(path, backend) -> tuple[str, ...]        those of them, and of others, that the backend asked for may mean
    CHOOSES                                           whether `auto` is settled before any start is measured, by
    choose(path, threads) -> tuple[str, str]          the backend that `auto` takes here, and why
    open_subject(path, threads, backend) -> Answerer
    COLD_STARTS                                       in how many fresh processes its start is measured
What runs elsewhere than in Python (`in_browser`) has neither `choose` nor `open_subject`.
A new peer is one file and one line in `KINDS`.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Protocol

from PIL import Image

from masters_edge.common.errors import UserError

# kind -> module
KINDS = {
    "bundle": "masters_edge.benchmarks.peers.bundle",
    "checkpoint": "masters_edge.benchmarks.peers.pytorch",
}


class Answered(Protocol):
    """One answer and its stages; None where a stage can't be observed."""

    text: str
    preprocess_ms: float | None
    vision_ms: float | None
    prefill_ms: float | None
    ttft_ms: float | None
    decode_tokens_per_s: float | None
    total_ms: float


@dataclass(frozen=True)
class Facts:
    """What a loaded subject says of itself; `weights` is equal for a checkpoint and the bundles made of it."""

    target: str
    runtime: str
    scheme: str
    size_bytes: int
    parameters: int | None = None
    weights: str | None = None
    versions: dict[str, str] = field(default_factory=dict)


class Answerer(Protocol):
    """A loaded subject. `batch_size` above 1: questions beyond the latency sample go through `answer_many`.

    `context` is how many tokens prompt and answer have room in.
    """

    batch_size: int
    context: int

    @property
    def facts(self) -> Facts: ...

    def answer(self, image: Image.Image, question: str, exactly: int | None = None) -> Answered:
        """`exactly` so many tokens, whatever they are, in place of an answer that ends where the student ends it."""

    def answer_many(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]: ...

    def prompt_size(self, image: Image.Image, question: str) -> tuple[int, int]:
        """Tokens of the prompt, and how many of them stand for the picture."""


def module_of(kind: str) -> ModuleType:
    """The module that knows this kind of subject, or a UserError with the nearest one."""
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]!r}" if near else f"use one of: {', '.join(sorted(KINDS))}"
        raise UserError(f"there is no kind of subject {kind!r}; {hint}")
    return import_module(KINDS[kind])
