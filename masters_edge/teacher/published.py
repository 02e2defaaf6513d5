"""Which weights a checkpoint has, as published, and where they lie in the loaded model's parameters.

A layer that has a threshold of its own (METHOD 1) is a weight of the checkpoint. transformers stacks the experts of a
layer, and gate with up, into one parameter on loading, and takes them apart again on saving. Here the same conversions
are run backwards over shapes and strides alone, so each published weight is found as a view of its parameter, and a
mask in memory is the mask on disk, bit for bit.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_BIAS = re.compile(r"(^|[._])bias(es)?$")
_NORM = re.compile(r"(^|\.)(ln[_\d][^.]*|ln|[^.]*norm[^.]*)(\.[^.]+)?$", re.IGNORECASE)


def is_layer(name: str, dimensions: int) -> bool:
    """Whether a weight of a checkpoint is masked: norms and biases never are, whatever their shape."""
    return dimensions >= 2 and not _BIAS.search(name) and not _NORM.search(name)


class _Layout(torch.Tensor):
    """Shape and strides without data (meta); stays a view where a conversion would copy to have it contiguous."""

    def contiguous(self, *_: Any, **__: Any) -> "_Layout":
        return self


def weights(model: nn.Module) -> Iterator[tuple[str, str, torch.Tensor | None]]:
    """Each weight of the checkpoint once (tied ones are one): the name of the parameter that holds it, its own name,
    and itself: the parameter, or a contiguous view of a part of it.

    None in place of a tensor: the parameter is made of published weights in a way that no view undoes.
    """
    from transformers import PreTrainedModel
    from transformers.core_model_loading import revert_weight_conversion

    parameters = dict(model.named_parameters(remove_duplicate=True))
    if not isinstance(model, PreTrainedModel):
        yield from ((name, name, parameter) for name, parameter in parameters.items())
        return
    layouts = {name: _layout(parameter) for name, parameter in parameters.items()}
    owners = {_storage(layout): name for name, layout in layouts.items()}
    parts: dict[str, list[tuple[str, torch.Tensor]]] = {name: [] for name in parameters}
    for name, layout in revert_weight_conversion(model, dict(layouts)).items():
        if (owner := owners.get(_storage(layout))) is not None and layout.is_contiguous():
            parts[owner].append((name, layout))
    for owner, parameter in parameters.items():
        if sum(layout.numel() for _, layout in parts[owner]) != parameter.numel():
            yield owner, owner, None
            continue
        for name, layout in parts[owner]:
            whole = layout.shape == parameter.shape
            place = (layout.shape, layout.stride(), layout.storage_offset())
            yield owner, name, parameter if whole else parameter.detach().as_strided(*place)


def _layout(parameter: torch.Tensor) -> _Layout:
    empty = torch.empty_strided(parameter.shape, parameter.stride(), dtype=parameter.dtype, device="meta")
    return empty.as_subclass(_Layout)


def _storage(tensor: torch.Tensor) -> int:
    """Equal for views of one tensor; a meta tensor has no address."""
    return tensor.untyped_storage()._cdata
