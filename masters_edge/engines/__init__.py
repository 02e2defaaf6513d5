"""Whoever answers questions: a transformers model, vLLM in this process, or an OpenAI-compatible server.

In: requests (a question, and a seed for each response wanted). Out: token ids, in the order of the requests. Kernels
and random numbers are an engine's own: `name` says which it was, for the store's provenance.
"""

from pathlib import Path
from typing import Literal

from masters_edge.engines.base import AnyEngine, Closing, Request, Speaker, sampled
from masters_edge.recipe.schema import Endpoint, Recipe

__all__ = ["AnyEngine", "Closing", "Request", "Speaker", "open_engine", "sampled"]


def open_engine(
    which: Literal["transformers", "vllm"] | Endpoint, recipe: Recipe, speaker: Speaker, folder: Path
) -> AnyEngine:
    """The engine that `which` names, for one speaker; open it once for a stage, since vLLM takes long to start.

    Args:
        which: `recipe.responses.student_engine` or `teacher_engine`.
        recipe: for the settings of `responses`.
        speaker: whose responses; with its model, for transformers.
        folder: room for a masked checkpoint while the engine is open; nothing is left there.

    Raises:
        UserError: a package is missing, the server can't be reached or doesn't know the model, a mask that can't be
            written.
    """
    if isinstance(which, Endpoint):
        from masters_edge.engines.endpoint import EndpointEngine

        return EndpointEngine(which, recipe.responses, speaker)
    if which == "vllm":
        from masters_edge.engines.vllm import VllmEngine

        return VllmEngine(recipe.responses, speaker, folder)
    from masters_edge.engines.transformers import Engine

    sizes = (recipe.responses.max_new_tokens, recipe.responses.batch_size)
    return Engine(speaker.model, speaker.prompter, *sizes, speaker.features)
