"""OpenVINO on the CPU, for its own files and for ONNX. The KV cache is the decoder's own state."""

from pathlib import Path
from typing import Any

import numpy as np

from masters_edge.errors import UserError
from masters_edge.quiet import import_openvino
from masters_edge.runtime.backends import _openvino_graphs as changes
from masters_edge.runtime.backends._openvino_qwen import QwenVision

AVAILABLE_FOR = ("openvino", "onnx", "onnx_portable")
PACKAGE = "openvino"
# Without these OpenVINO takes bfloat16, int8 activations and an 8-bit cache where they are faster.
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


def open_backend(folder: Path, graphs: dict[str, str], threads: int, exact: bool = False) -> "OpenVino":
    """Load the graphs; `exact` computes in float32 throughout, as the parity gate needs it."""
    return OpenVino(folder, graphs, threads, exact)


class OpenVino:
    """Runs graphs named and shaped as openvino-genai's, with a stateful decoder, or those of an ONNX bundle."""

    name = "openvino"

    def __init__(self, folder: Path, graphs: dict[str, str], threads: int, exact: bool) -> None:
        # Pinned to cores, two processes would wait for the same ones.
        config = {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False, **(EXACT if exact else {})}
        core = import_openvino().Core()
        compiled = {part: _compile(core, part, folder / file, config) for part, file in graphs.items()}
        self._vision = (
            QwenVision(folder, compiled) if "vision_patches" in graphs else _Plain(compiled["vision_encoder"])
        )
        self._embed, decoder = compiled["embed_tokens"], compiled["decoder"]
        shapes = {end.get_any_name(): end.get_partial_shape() for end in decoder.inputs}
        self._names = frozenset(shapes)
        # Qwen3-VL: levels of DeepStack, which our runtime carries behind each embedding.
        deep = shapes.get("deepstack_visual_embeds")
        self._levels = deep[0].get_length() if deep is not None else 0
        self._decoder = decoder.create_infer_request()
        self.start()

    def vision(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self._vision(inputs)

    def embed(self, input_ids: np.ndarray) -> np.ndarray:
        embeds = self._embed([input_ids])[0]
        return np.pad(embeds, ((0, 0), (0, 0), (0, self._levels * embeds.shape[-1])))

    def start(self, kept: int = 0) -> int:
        self._decoder.reset_state()
        self._length = 0
        return 0

    def forward(self, inputs_embeds: np.ndarray, position_ids: np.ndarray, last: bool = False) -> np.ndarray:
        tokens, width = inputs_embeds.shape[1:]
        self._length += tokens
        feed = {
            "attention_mask": np.ones((1, self._length), np.int64),
            "position_ids": position_ids,
            "beam_idx": np.zeros(1, np.int32),
        }
        if self._levels:
            # Every token counts as one of the picture: behind text there are zeros to add.
            parts = inputs_embeds.reshape(tokens, 1 + self._levels, width // (1 + self._levels)).transpose(1, 0, 2)
            inputs_embeds = parts[:1]
            feed["visual_pos_masks"] = np.ones((1, tokens), bool)
            feed["deepstack_visual_embeds"] = parts[1:]
        if changes.FIRST in self._names:
            feed[changes.FIRST] = np.array([-1 if last else 0])
        return self._decoder.infer({"inputs_embeds": inputs_embeds, **feed})["logits"]


class _Plain:
    """The vision part as one graph."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def __call__(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        features = self._graph(inputs)[0]
        return features.reshape(-1, features.shape[-1])


def _compile(core: Any, part: str, path: Path, config: dict[str, Any]) -> Any:
    try:
        model = core.read_model(path)
        if path.suffix == ".onnx":
            changes.sum_in_float32(model)
        if part == "decoder":
            changes.make_stateful(model)
            changes.add_first_logits(model)
        return core.compile_model(model, "CPU", config)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"OpenVINO can't load {path} ({reason}); copy or export the bundle again") from None
