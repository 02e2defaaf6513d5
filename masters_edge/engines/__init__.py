"""Engines beside the transformers one: vLLM in this process, or an OpenAI-compatible server.

In: requests (a question, and a seed for each response wanted). Out: token ids, in the order of the requests. Kernels
and random numbers are such an engine's own: `name` says which it was, for the store's provenance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

from typing_extensions import Self

from masters_edge.engines.transformers import Request
from masters_edge.families.base import Family
from masters_edge.families.prompts import Prompter
from masters_edge.recipe.schema import Endpoint, Recipe, Responses
from masters_edge.teacher.masking import Norms


@dataclass(frozen=True)
class Speaker:
    """Whose responses are wanted: a checkpoint (`source`: a folder or hub id), whole or masked at `ratio`.

    `teacher` is its place in the chain, None for the student. `norms` are set where the mask's score is `activation`.
    """

    prompter: Prompter
    source: str
    ratio: float = 0.0
    teacher: int | None = None
    include: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    norms: Norms | None = None

    @property
    def family(self) -> Family:
        return self.prompter.family

    @property
    def placeholders(self) -> list[int]:
        """Token ids that no response may hold."""
        return self.family.placeholders(self.prompter.config)

    def __str__(self) -> str:
        who = "the student" if self.teacher is None else f"teacher {self.teacher}"
        return f"{who} at mask ratio {self.ratio:g}" if self.ratio else who


class AnyEngine(Protocol):
    """What makes responses; also a context manager that closes itself. `name` goes into the store's provenance."""

    @property
    def name(self) -> str:
        """The engine and its version or address, and what it does differently from what the recipe says."""

    def answer(
        self,
        requests: Sequence[Request],
        sampling: Responses | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[list[int]]]:
        """Token ids `[request][response][token]`, in order; the end token is the last where it was reached.

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


def open_engine(which: Literal["vllm"] | Endpoint, recipe: Recipe, speaker: Speaker, folder: Path) -> AnyEngine:
    """The engine that `which` names, for one speaker; open it once for a stage, since vLLM takes long to start.

    Args:
        which: `recipe.responses.student_engine` or `teacher_engine`, where it isn't `transformers`.
        recipe: for the settings of `responses`.
        speaker: whose responses.
        folder: room for a masked checkpoint while the engine is open; nothing is left there.

    Raises:
        UserError: a package is missing, the server can't be reached or doesn't know the model, a mask that can't be
            written.
    """
    if isinstance(which, Endpoint):
        from masters_edge.engines.endpoint import EndpointEngine

        return EndpointEngine(which, recipe.responses, speaker)
    from masters_edge.engines.vllm import VllmEngine

    return VllmEngine(recipe.responses, speaker, folder)
