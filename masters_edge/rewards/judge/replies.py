"""What a judge says, and whoever says it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Reply:
    """What the judge said to one prompt; `text` is None where it said nothing, and `error` says why."""

    text: str | None
    error: str = ""


class Voice(Protocol):
    """Whoever answers prompts."""

    def replies(self, prompts: Sequence[str]) -> Iterator[list[tuple[int, Reply]]]:
        """(place, reply) of every prompt, in lists as they come in."""

    def close(self) -> None: ...
