"""A checkpoint's shape without its weights: its config, the model on torch's meta device, and parameters by part."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from masters_edge.common.errors import UserError
from masters_edge.common.quiet import hush, hush_transformers
from masters_edge.families import load_config, rotary
from masters_edge.families.base import Family, family_of
from masters_edge.plan.published import SHAPES

PARTS = ("vision", "connector", "embeddings", "decoder", "head")
_CONNECTORS = ("merger", "connector", "projector", "image_newline")


@dataclass(frozen=True)
class Shape:
    """A model on the meta device.

    `dtype`: the number format that the checkpoint's weights are loaded in. `origin`: where the config came from.
    """

    name: str
    config: Any
    model: Any
    family: Family
    dtype: torch.dtype
    origin: str

    @property
    def parameters(self) -> dict[str, int]:
        """Parameters by part (count); tied ones once, as embeddings."""
        found = dict.fromkeys(PARTS, 0)
        for name, parameter in self.model.named_parameters(remove_duplicate=True):
            found[part_of(self.model, name, parameter)] += parameter.numel()
        return found

    @property
    def total(self) -> int:
        return sum(self.parameters.values())

    @property
    def vocabulary(self) -> int:
        return int(self.config.get_text_config().vocab_size)

    def blocks(self) -> list[int]:
        """Parameters (count) of each layer that FSDP gathers by itself: those the model says are never split."""
        names = set(getattr(self.model, "_no_split_modules", None) or ())
        found = [m for m in self.model.modules() if type(m).__name__ in names]
        return [sum(p.numel() for p in module.parameters()) for module in found]


def part_of(model: Any, name: str, parameter: torch.Tensor) -> str:
    """Which of PARTS a parameter belongs to."""
    if parameter is model.get_input_embeddings().weight:
        return "embeddings"
    if parameter is model.get_output_embeddings().weight:
        return "head"
    if any(word in name for word in _CONNECTORS):
        return "connector"
    return "vision" if "vision" in name or "visual" in name else "decoder"


def shape(source: str, mapping: dict[str, str] | None = None) -> Shape:
    """The shape of a hub id, a folder with a config.json, or a config.json itself.

    A hub id whose config can't be reached is taken from the shapes that come with masters-edge, if it is one of them.
    `mapping`: configs to take instead, by name.

    Raises:
        UserError: no config can be had.
    """
    hush()
    hush_transformers()
    return of_config(source, *_config(source, (mapping or {}).get(source, source)))


def published(source: str) -> Shape:
    """One of the shapes that come with masters-edge; no hub is asked. `source`: a key of `published.SHAPES`."""
    hush()
    hush_transformers()
    return of_config(source, _from_dict(dict(SHAPES[source])), "the shapes that come with masters-edge")


def of_config(source: str, config: Any, origin: str) -> Shape:
    """The shape that a transformers config describes."""
    from transformers import AutoModelForImageTextToText

    family = family_of(config, source)
    dtype = getattr(config, "dtype", None) or torch.float32
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.tie_weights()
    rotary.plain(model)
    return Shape(source, config, model.eval(), family, dtype, origin)


def _config(source: str, given: str) -> tuple[Any, str]:
    path = Path(given)
    if path.is_file():
        return _from_dict(_read(path)), f"{path}"
    if path.is_dir():
        return load_config(given), "the folder's config.json"
    if given != source and given not in SHAPES and (path.is_absolute() or given.startswith((".", "~"))):
        raise UserError(f"--config-of {source}={given}: there is no such file or folder; give a config.json")
    try:
        return load_config(given), "the hub's config.json"
    except UserError as error:
        if given in SHAPES:
            return _from_dict(dict(SHAPES[given])), "the shapes that come with masters-edge"
        raise UserError(
            f"the config of {given} can't be had ({error}); save its config.json and say where with "
            f"--config-of {source}=config.json"
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        assert "model_type" in values
        return values
    except (OSError, ValueError, AssertionError, TypeError):
        raise UserError(f"{path} is no transformers config (JSON with a model_type); give a config.json") from None


def _from_dict(values: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    values = dict(values)
    kind = values.pop("model_type")
    try:
        return AutoConfig.for_model(kind, **values)
    except ValueError as error:
        raise UserError(f"no config of type {kind!r} is known to transformers: {str(error).splitlines()[0]}") from None
