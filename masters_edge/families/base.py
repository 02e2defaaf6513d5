"""What a model family needs of its own, behind one small class; a family is one file that registers itself.

The default does what most transformers VLMs share. A family overrides only where it differs.
"""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from masters_edge.errors import UserError

_FAMILIES: dict[str, "Family"] = {}


class Family:
    """Image batching and the forward pass of one family of transformers models."""

    model_types: tuple[str, ...] = ()

    def image_inputs(self, processor: Any, image: Image.Image) -> dict[str, torch.Tensor]:
        """Model inputs of one image alone: float32 pixels and whatever places them."""
        return dict(processor.image_processor(images=[image], return_tensors="pt"))

    def collate_images(self, images: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Inputs of several images, one per sequence, as the model takes them."""
        return {name: torch.cat([image[name] for image in images]) for name in images[0]}

    def response_hidden(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        images: list[dict[str, torch.Tensor]],
        owner: torch.Tensor,
    ) -> torch.Tensor:
        """Last hidden states `[sequences, length, hidden]` of right-padded sequences.

        `images` holds one entry per question, `owner[s]` the question of sequence `s`. The default encodes the image
        once per sequence; families that can, encode it once per question.
        """
        inputs = self.collate_images([images[question] for question in owner.tolist()])
        return model.base_model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **inputs
        ).last_hidden_state


def register(family: type[Family]) -> type[Family]:
    """Class decorator: makes the family known under its model types."""
    for name in family.model_types:
        _FAMILIES[name] = family()
    return family


def family_of(config: Any, source: str = "this checkpoint") -> Family:
    """The family of a transformers config.

    Raises:
        UserError: a model type no family is registered for.
    """
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"masters_edge.families.{module.name}")
    try:
        return _FAMILIES[config.model_type]
    except KeyError:
        raise UserError(
            f"{source} is a {config.model_type!r} model, and no family of that type is built in; "
            f"use one of: {', '.join(sorted(_FAMILIES))}"
        ) from None
