"""What a model family needs of its own, behind one small class; a family is one file that registers itself.

The default does what most transformers VLMs share. A family overrides only where it differs.
"""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import torch

from masters_edge.common.errors import UserError

_FAMILIES: dict[str, "Family"] = {}


class Family:
    """Image batching and the forward pass of one family of transformers models."""

    model_types: tuple[str, ...] = ()

    def collate_images(self, images: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Inputs of several images, one per row, as the model takes them; each is what the processor makes of one."""
        return {name: torch.cat([image[name] for image in images]) for name in images[0]}

    def text_inputs(self, config: Any, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the model wants besides `input_ids` int64 `[rows, length]` and images, such as token types."""
        return {}

    def placeholders(self, config: Any) -> list[int]:
        """Ids of the tokens that the model replaces by features of images or videos; no response may hold one."""
        named = (getattr(config, name, None) for name in ("image_token_id", "video_token_id"))
        return [token for token in named if token is not None]

    def image_tokens(self, config: Any, inputs: dict[str, torch.Tensor]) -> int:
        """Placeholders in the prompt that the features of one image (`inputs` as its processor gives them) fill."""
        raise NotImplementedError

    def gives_features(self, model: Any) -> bool:
        """Whether the features of an image can be kept and handed in instead of its pixels."""
        return False

    def image_features(self, model: Any, images: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Features of collated images, a tensor `[tokens, hidden]` each."""
        raise NotImplementedError

    def inputs_of_features(self, features: list[torch.Tensor]) -> dict[str, Any]:
        """What the model takes in place of the pixels of one image per row."""
        raise NotImplementedError

    def positions(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        images: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Positions int64 `[axes, rows, length]` of right-padded prompts, as the decoder's rotary embedding has them.

        One axis, 0, 1, 2, ...; families with M-RoPE have three. `attention_mask` int64 `[rows, length]`.
        """
        return torch.arange(input_ids.shape[1], device=input_ids.device).expand(1, *input_ids.shape)

    def hidden(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        images: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Last hidden states `[rows, length, hidden]`, one image per row.

        Args:
            model: the whole model; its output head is not applied.
            input_ids: int64 `[rows, length]`.
            attention_mask: `[rows, 1, length, length]`, bool (true: may attend) or additive.
            position_ids: int64 `[axes, rows, length]`, as `positions` gives them.
            images: the rows' images, collated.
        """
        return model.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids[0] if position_ids.shape[0] == 1 else position_ids,
            use_cache=False,
            **self.text_inputs(model.config, input_ids),
            **images,
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
    if config.model_type not in _FAMILIES:
        raise UserError(
            f"{source} is a {config.model_type!r} model, and no family of that type is built in; "
            f"use one of: {', '.join(sorted(_FAMILIES))}"
        )
    return _FAMILIES[config.model_type]
