"""What a model makes of images, kept while its weights stay as they are: several questions share an image.

In: the images of some rows. Out: the inputs that stand for them in a forward pass or in generation, from features that
are kept where the family allows it, from pixels where it doesn't.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from masters_edge.families.base import Family

_KEPT = 256 << 20  # bytes


class ImageFeatures:
    """The image features of one model, the most recently used ones, up to 256 MiB."""

    def __init__(self, model: Any, family: Family, limit: int = _KEPT) -> None:
        self.model, self.family, self.limit = model, family, limit
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._bytes = 0

    def forget(self) -> None:
        """Let go of all, where the model has learnt meanwhile."""
        self._kept.clear()
        self._bytes = 0

    @torch.inference_mode()
    def inputs(self, image_ids: Sequence[str], images: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
        """The rows' images as the model takes them, on its device.

        Args:
            image_ids: equal for equal images, one per row.
            images: what the processor made of each.
        """
        # FSDP gathers a model's weights around its own forward: a part of it can't be called by itself.
        if not self.family.gives_features(self.model) or isinstance(self.model, FSDPModule):
            collated = self.family.collate_images(list(images))
            return {name: value.to(self.model.device) for name, value in collated.items()}
        missing = {name: image for name, image in zip(image_ids, images) if name not in self._kept}
        found = {name: self._kept[name] for name in image_ids if name in self._kept}
        if missing:
            collated = self.family.collate_images(list(missing.values()))
            collated = {name: value.to(self.model.device) for name, value in collated.items()}
            found |= dict(zip(missing, self.family.image_features(self.model, collated), strict=True))
        self._keep(found)
        return self.family.inputs_of_features([found[name] for name in image_ids])

    def _keep(self, used: dict[str, torch.Tensor]) -> None:
        for name, features in used.items():
            if name not in self._kept:
                self._kept[name] = features
                self._bytes += _bytes(features)
            self._kept.move_to_end(name)
        while self._bytes > self.limit and self._kept:
            self._bytes -= _bytes(self._kept.popitem(last=False)[1])


def _bytes(features: torch.Tensor) -> int:
    return features.numel() * features.element_size()
