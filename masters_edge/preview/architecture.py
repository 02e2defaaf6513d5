"""Which architecture is meant: a shipped name, a hub id, a checkpoint folder, or a config.json."""

import difflib
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masters_edge.common.errors import UserError

# Shapes that come with masters-edge, by the names people use; the values are keys of `plan.published.SHAPES`.
NAMES = {
    "smolvlm-256m": "HuggingFaceTB/SmolVLM-256M-Instruct",
    "smolvlm-500m": "HuggingFaceTB/SmolVLM-500M-Instruct",
    "qwen3-vl-2b": "Qwen/Qwen3-VL-2B-Instruct",
    "internvl3.5-1b": "OpenGVLab/InternVL3_5-1B-HF",
}


@dataclass(frozen=True)
class Architecture:
    """`shape` is a model on the meta device (`plan.shapes.Shape`). `processor`: where its own tokenizer and image
    processor can be loaded from, or None, and then something stands in for them."""

    name: str
    shape: Any
    processor: str | None

    @property
    def parameters(self) -> int:
        return self.shape.total

    @property
    def sha256(self) -> str:
        """Of all that decides what is measured."""
        config = json.loads(self.shape.config.to_json_string(use_diff=False))
        text = json.dumps([config, self.processor, self.name], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def find(source: str) -> Architecture:
    """The architecture that `source` names. Raises UserError where there is no such thing."""
    from masters_edge.plan import shapes

    if (known := NAMES.get(source.lower())) is not None:
        return Architecture(source.lower(), shapes.published(known), None)
    path = Path(source)
    looks_like_a_name = not path.exists() and "/" not in source
    if looks_like_a_name and not source.endswith(".json"):
        near = difflib.get_close_matches(source.lower(), NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known names: {', '.join(NAMES)}"
        raise UserError(f"there is no folder or config {source!r} here, nor a shape of that name; {hint}")
    if source.endswith(".json") and not path.is_file():
        raise UserError(f"there is no file {source}; give a config.json, a checkpoint folder, a hub id or a name")
    if path.is_dir():
        own = source if (path / "tokenizer.json").is_file() else None
        return Architecture(_slug(path.resolve().name), shapes.shape(source), own)
    if path.is_file():
        named = path.resolve().parent.name if path.stem == "config" else path.stem
        return Architecture(_slug(named), shapes.shape(source), None)
    return _from_hub(source)


def _from_hub(source: str) -> Architecture:
    """A hub id: the hub's config and processor; else, where it is one, a shape that comes with masters-edge."""
    from masters_edge import families
    from masters_edge.plan import published, shapes

    name = _slug(source.rpartition("/")[2])
    try:
        config = families.load_config(source)
    except UserError as error:
        if source in published.SHAPES:
            return Architecture(name, shapes.published(source), None)
        raise UserError(f"the config of {source} can't be had ({error}); save its config.json, and give that") from None
    return Architecture(name, shapes.of_config(source, config, "the hub's config.json"), source)


def _slug(text: str) -> str:
    """A name for files and results."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "model"
