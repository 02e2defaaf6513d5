"""SmolVLM, SmolVLM2 and Idefics3: SigLIP tiles, pixel shuffle, a Llama-like decoder."""

from typing import Any

import torch
import torch.nn.functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling

from masters_edge.families.base import Family, register


@register
class SmolVLM(Family):
    model_types = ("smolvlm", "idefics3")

    def collate_images(self, images: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """`pixel_values` `[sequences, tiles, 3, H, W]`: missing tiles and borders are zero, as the processor pads."""
        tiles, height, width = (max(i["pixel_values"].shape[d] for i in images) for d in (1, 3, 4))
        padded: dict[str, list[torch.Tensor]] = {}
        for image in images:
            _, have, _, rows, columns = image["pixel_values"].shape
            border = (0, width - columns, 0, height - rows)
            padded.setdefault("pixel_values", []).append(F.pad(image["pixel_values"], (*border, 0, 0, 0, tiles - have)))
            if "pixel_attention_mask" in image:
                padded.setdefault("pixel_attention_mask", []).append(
                    F.pad(image["pixel_attention_mask"], (*border, 0, tiles - have))
                )
        return {name: torch.cat(values) for name, values in padded.items()}

    def response_hidden(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        images: list[dict[str, torch.Tensor]],
        owner: torch.Tensor,
    ) -> torch.Tensor:
        """As `Family.response_hidden`; the eye sees each question's image once, whatever the number of responses."""
        features = model.get_image_features(**self.collate_images(images), return_dict=True).pooler_output
        per_sequence: Any = [features[question] for question in owner.tolist()]  # a list, as get_image_features gives
        shared = BaseModelOutputWithPooling(pooler_output=per_sequence)
        return model.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            mm_encoder_outputs={"image": shared},
            use_cache=False,
        ).last_hidden_state
