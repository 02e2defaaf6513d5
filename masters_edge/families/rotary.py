"""Rotary positions whose frequencies don't depend on how long the prompt is: what graphs have, and plans trace."""

from typing import Any


def plain(model: Any) -> None:
    """Give model and config plain frequencies in place of "dynamic" ones, as published InternVL3 checkpoints have them.

    Up to `max_position_embeddings` the two are the same numbers, and no runtime here goes beyond.
    """
    config = model.config.get_text_config()
    if kind(config) != "dynamic":
        return
    scaling = ("type", "factor", "original_max_position_embeddings")
    kept = {name: value for name, value in config.rope_parameters.items() if name not in scaling}
    config.rope_parameters = kept | {"rope_type": "default"}
    for module in model.modules():
        if getattr(module, "rope_type", None) == "dynamic":
            module.rope_type = "default"


def kind(config: Any) -> str:
    """The rotary positions' type in a text config, as transformers calls it."""
    return (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
