"""What every engine has in common: what is asked of it, who speaks through it, and its interface."""

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from typing_extensions import Self

from masters_edge.data.records import Question
from masters_edge.engines.sampling import row_seed
from masters_edge.families.base import Family
from masters_edge.families.features import ImageFeatures
from masters_edge.families.prompts import Prompter
from masters_edge.recipe.schema import Responses


@dataclass(frozen=True, slots=True)
class Request:
    """Responses wanted to one question: one sampled for each seed, or a single greedy one where there is no seed."""

    question: Question
    seeds: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        return max(1, len(self.seeds))


class Closing(contextlib.AbstractContextManager):
    """Closes itself at the end of a `with`."""

    def close(self) -> None:
        """Let go of memory, connections and files; may be called twice. By default there are none."""

    def __exit__(self, *error: object) -> None:
        self.close()


def sampled(question: Question, count: int, *key: Any) -> Request:
    """A request for `count` sampled responses, each with a seed of its own."""
    return Request(question, tuple(row_seed(*key, question.id, number) for number in range(count)))


@dataclass(eq=False)
class Speaker:
    """Whoever answers and scores: a checkpoint (`source`: a folder or hub id), whole or masked at `ratio`.

    Its weights don't change while it is used. `model` is set where it is loaded in this process. `teacher` is its place
    in the chain, None for the student. `write` writes it as a checkpoint folder, masked as it is, for engines that load
    files; None where `source` is that checkpoint.
    """

    prompter: Prompter
    source: str
    model: Any = None
    ratio: float = 0.0
    teacher: int | None = None
    write: Callable[[Path], None] | None = None

    @property
    def family(self) -> Family:
        return self.prompter.family

    @property
    def placeholders(self) -> list[int]:
        """Token ids that no response may hold."""
        return self.family.placeholders(self.prompter.config)

    @cached_property
    def features(self) -> ImageFeatures:
        """What the model makes of images, kept."""
        return ImageFeatures(self.model, self.family)

    def __str__(self) -> str:
        who = "the student" if self.teacher is None else f"teacher {self.teacher}"
        return f"{who} at mask ratio {self.ratio:g}" if self.ratio else who


class AnyEngine(Protocol):
    """What makes responses; also a context manager that closes itself. `name` goes into the store's provenance."""

    @property
    def name(self) -> str:
        """The engine and its version or address, and what it does differently from what the recipe says."""

    @property
    def end_ids(self) -> Collection[int]:
        """Ids that end a response: one whose last token is none of them was cut."""

    def answer(
        self,
        requests: Sequence[Request],
        sampling: Responses | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[list[int]]]:
        """Token ids `[request][response][token]`, in order; the end token is the last where it was reached. A response
        may have no tokens, where a server gave none or it began with an image placeholder.

        A request without seeds has one greedy response; `sampling` applies to the others. `on_progress` hears how many
        requests were added.

        Raises:
            UserError: the engine can't answer; nothing is returned then.
        """

    def close(self) -> None:
        """Let go of memory, connections and files; may be called twice."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
