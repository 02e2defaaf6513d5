"""What isn't finite, or won't be in float16: the layer's name, for a sentence. Found in PyTorch, in float32."""

from typing import Any

import numpy as np
import torch

from masters_edge.common.errors import UserError
from masters_edge.export.student import LoadedStudent

LARGEST_FLOAT16, LARGEST_FLOAT32 = (float(np.finfo(kind).max) for kind in (np.float16, np.float32))


def check_weights(student: LoadedStudent, what: str) -> None:
    """Raise UserError that names the first parameter that isn't finite; `what`: which weights these are."""
    for name, parameter in student.model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise UserError(f"{what} are not all finite: {name} holds infinity or NaN; no bundle was written")


def first_beyond(student: LoadedStudent, image: Any, question: str, limit: float) -> str | None:
    """The first layer, in the order of computing, whose values pass `limit` on this sample, with how far; or None."""
    from masters_edge.export.gate.reference import prompt

    found: list[str] = []

    def watch(name: str) -> Any:
        def look(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            for tensor in output if isinstance(output, tuple) else (output,):
                if not found and isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.numel():
                    largest = float(tensor.detach().abs().max())
                    if not largest <= limit:  # NaN too
                        found.append(f"{name} ({largest:,.0f})" if np.isfinite(largest) else f"{name} (not finite)")

        return look

    leaves = [(name, module) for name, module in student.model.named_modules() if not [*module.children()]]
    hooks = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            student.model(**prompt(student.processor, image, question))
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
