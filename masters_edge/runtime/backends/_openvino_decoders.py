"""An OpenVINO decoder and its KV cache, in the two ways that OpenVINO has.

`Paged` is what openvino-genai does with OpenVINO's own files: attention over blocks of a cache that we hold, which is
about 1.7 times as fast over a prompt, and keeps what two prompts begin with. `Stateful` runs decoders read from ONNX,
whose cache is the runtime's own state.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from masters_edge.common.quiet import import_openvino
from masters_edge.runtime.backends import _openvino_graphs as changes

_ROOM = 256  # tokens that a new cache has more than are needed, at least


class Stateful:
    """The cache is the decoder's state."""

    def __init__(self, core: Any, path: Path, config: Mapping[str, Any]) -> None:
        model = core.read_model(path)
        if path.suffix == ".onnx":
            changes.sum_in_float32(model)
        changes.make_stateful(model)
        self._short = changes.add_first_logits(model, axis=1)
        compiled = core.compile_model(model, "CPU", config)
        self.shapes = {end.get_any_name(): end.get_partial_shape() for end in compiled.inputs}
        self._request = compiled.create_infer_request()
        self.start()

    def start(self, kept: int = 0) -> int:
        self._request.reset_state()
        self._length = 0
        return 0

    def forward(self, embeds: np.ndarray, positions: np.ndarray, last: bool, more: dict[str, np.ndarray]) -> np.ndarray:
        """float32 [1, tokens, width], int64 [1, tokens] or [3, 1, tokens] -> logits float32 [1, tokens or 1, vocab]."""
        self._length += embeds.shape[1]
        feed = {
            "inputs_embeds": embeds,
            "attention_mask": np.ones((1, self._length), np.int64),
            "position_ids": positions,
            "beam_idx": np.zeros(1, np.int32),
            **more,
        }
        if self._short:
            feed[changes.FIRST] = np.array([-1 if last else 0])
        return self._request.infer(feed)["logits"]


class Paged:
    """The cache is a row of blocks for each layer's keys and values, all of one answer."""

    def __init__(self, core: Any, path: Path, config: Mapping[str, Any]) -> None:
        transformations = import_openvino("openvino._offline_transformations")
        self._openvino = import_openvino()
        model = core.read_model(path)
        transformations.paged_attention_transformation(model)  # tokens become the first axis, and nothing is masked
        self._short = changes.add_first_logits(model, axis=0)
        compiled = core.compile_model(model, "CPU", config)
        self.shapes = {end.get_any_name(): end.get_partial_shape() for end in compiled.inputs}
        self._caches = {
            end.get_any_name(): (
                end.get_element_type(),
                [size.get_length() for size in list(end.get_partial_shape())[1:]],
            )
            for end in compiled.inputs
            if end.get_any_name().startswith(("key_cache.", "value_cache."))
        }
        # Values are stored as they are, whatever the scales of an 8-bit cache add to a row: so many tokens a block.
        self._block = next(shape[1] for name, (_, shape) in self._caches.items() if name.startswith("value_cache."))
        self._request = compiled.create_infer_request()
        self._length = self._blocks = 0

    def start(self, kept: int = 0) -> int:
        self._length = min(kept, self._length)
        return self._length

    def forward(self, embeds: np.ndarray, positions: np.ndarray, last: bool, more: dict[str, np.ndarray]) -> np.ndarray:
        """As `Stateful.forward`."""
        tokens, before = embeds.shape[1], self._length
        total = before + tokens
        used = -(-total // self._block)
        if used > self._blocks:
            self._grow(total)
        axes = positions.shape[:-2]
        feed = {
            "inputs_embeds": embeds[0],
            "position_ids": positions.reshape(*axes, tokens),
            "past_lens": np.array([before], np.int32),
            "subsequence_begins": np.array([0, tokens], np.int32),
            "block_indices": np.arange(used, dtype=np.int32),
            "block_indices_begins": np.array([0, used], np.int32),
            "max_context_len": np.array(total, np.int32),
            **more,
        }
        if self._short:
            feed[changes.FIRST] = np.array([-1 if last else 0])
        logits = self._request.infer(feed)["logits"]
        self._length = total
        return logits.reshape(1, -1, logits.shape[-1])

    def _grow(self, total: int) -> None:
        """Blocks for at least so many tokens, with what is in the old ones."""
        blocks = -(-(total + max(_ROOM, total // 2)) // self._block)
        for name, (kind, shape) in self._caches.items():
            tensor = self._openvino.Tensor(kind, self._openvino.Shape([blocks, *shape]))
            tensor.data.view(np.uint8)[...] = 0
            if self._blocks:
                old = self._request.get_tensor(name)
                old.copy_to(self._openvino.Tensor(tensor, [0] * (1 + len(shape)), [self._blocks, *shape]))
            self._request.set_tensor(name, tensor)
        self._blocks = blocks
