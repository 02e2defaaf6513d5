"""ExecuTorch on the CPU, through its Python runtime: static graphs whose KV cache lies inside the runtime."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from masters_edge.common.errors import UserError
from masters_edge.common.quiet import without_lines
from masters_edge.runtime.backends._static import StaticStudent

AVAILABLE_FOR = ("executorch",)
PACKAGE = "executorch"
SUFFIXES = (".pte",)


def open_backend(folder: Path, graphs: Mapping[str, str], threads: int, exact: bool) -> StaticStudent:
    """Load the three programs. What they compute was settled when they were lowered, so `exact` changes nothing."""
    return StaticStudent(Executorch(folder, graphs, threads))


def try_out() -> None:
    """Its runtime and what it has registered."""
    with without_lines("[cpuinfo_utils.cpp"):
        from executorch.runtime import Runtime

        Runtime.get().backend_registry.registered_backend_names  # noqa: B018 - looked up in native code


class Executorch:
    """Calls methods of `.pte` files (`_static.Runner`)."""

    name = "executorch"

    def __init__(self, folder: Path, graphs: Mapping[str, str], threads: int) -> None:
        with without_lines("[cpuinfo_utils.cpp"):  # how it looked for an ARM processor
            from executorch.runtime import Runtime

            runtime = Runtime.get()
            try:
                self._programs = {part: runtime.load_program(folder / file) for part, file in graphs.items()}
                self._methods = {
                    part: {name: program.load_method(name) for name in program.method_names}
                    for part, program in self._programs.items()
                }
            except RuntimeError as error:
                raise UserError(f"ExecuTorch can't load {folder} ({error}); copy or export the bundle again") from None

    def shapes(self, part: str, function: str) -> dict[str, tuple[int, ...]]:
        about = self._methods[part][function].metadata
        names = _INPUTS[part][: about.num_inputs()]
        return {name: tuple(about.input_tensor_meta(index).sizes()) for index, name in enumerate(names)}

    def run(self, part: str, function: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        import torch  # the runtime's Python side speaks tensors

        # ExecuTorch overlooks strides: what isn't contiguous would be read in another order.
        feed = [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in _INPUTS[part] if name in inputs]
        return self._methods[part][function].execute(feed)[0].numpy()

    def forget(self) -> None:
        """Nothing to do: the mask hides what an earlier answer left in the cache."""


# Methods know their inputs by position only.
_INPUTS = {
    "vision_encoder": ["pixel_values", "image_grid_thw"],
    "embed_tokens": ["input_ids"],
    "decoder": ["inputs_embeds", "attention_mask", "position_ids", "cache_position"],
}
