"""OpenVINO on the CPU, for its own files and for ONNX."""

from pathlib import Path
from typing import Any

import numpy as np

from masters_edge.common.errors import UserError
from masters_edge.common.quiet import import_openvino
from masters_edge.runtime.backends import _openvino_graphs as changes
from masters_edge.runtime.backends._frames import one_by_one
from masters_edge.runtime.backends._openvino_decoders import Paged, Stateful
from masters_edge.runtime.backends._openvino_qwen import QwenVision

AVAILABLE_FOR = ("openvino", "onnx", "onnx_portable")
PACKAGE = "openvino"
SUFFIXES = (".xml", ".onnx")
# Without these OpenVINO takes bfloat16, int8 activations and an 8-bit cache where they are faster.
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}

# On processors with AMX its bfloat16 kernels die (SIGFPE) of very narrow students: oneDNN divides by a width of 0.
SETTINGS = ("f32",)


def open_backend(
    folder: Path, graphs: dict[str, str], threads: int, exact: bool = False, setting: str = ""
) -> "OpenVino":
    """Load the graphs; `exact` computes in float32 throughout, as the parity gate needs it.

    `setting` "f32" keeps to float32 where OpenVINO would take bfloat16, and leaves the rest as it ships.
    """
    return OpenVino(folder, graphs, threads, exact, setting)


def try_out() -> None:
    """A product of two matrices, compiled as a bundle is."""
    import_openvino()
    operators = import_openvino("openvino.opset13")
    rows = operators.parameter([-1, 8], np.float32)
    product = operators.matmul(rows, np.ones((8, 4), np.float32), False, False)
    model = import_openvino().Model([product], [rows])
    import_openvino().Core().compile_model(model, "CPU")([np.ones((2, 8), np.float32)])


class OpenVino:
    """Runs graphs named and shaped as openvino-genai's, or those of an ONNX bundle."""

    name = "openvino"

    def __init__(self, folder: Path, graphs: dict[str, str], threads: int, exact: bool, setting: str = "") -> None:
        # Pinned to cores, two processes would wait for the same ones.
        config = {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False, **(EXACT if exact else {})}
        if setting:
            self.name = f"{self.name}:{setting}"
            config |= {"INFERENCE_PRECISION_HINT": setting, "KV_CACHE_PRECISION": setting}
        core = import_openvino().Core()
        compiled = {part: _compile(core, folder / file, config) for part, file in graphs.items() if part != "decoder"}
        self._vision = (
            QwenVision(folder, compiled) if "vision_patches" in graphs else _Plain(compiled["vision_encoder"])
        )
        self._embed = compiled["embed_tokens"]
        path = folder / graphs["decoder"]
        if (
            not exact
            and not setting
            and path.suffix == ".xml"
            and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        ):
            config["KV_CACHE_PRECISION"] = "bf16"  # an 8-bit cache takes longer to read than it saves
        self._decoder = _decoder(core, path, config)
        # Qwen3-VL: levels of DeepStack, which our runtime carries behind each embedding.
        deep = self._decoder.shapes.get("deepstack_visual_embeds")
        self._levels = deep[0].get_length() if deep is not None else 0

    def vision(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self._vision(inputs)

    def embed(self, input_ids: np.ndarray) -> np.ndarray:
        embeds = self._embed([input_ids])[0]
        return np.pad(embeds, ((0, 0), (0, 0), (0, self._levels * embeds.shape[-1]))) if self._levels else embeds

    def start(self, kept: int = 0) -> int:
        return self._decoder.start(kept)

    def forward(self, inputs_embeds: np.ndarray, position_ids: np.ndarray, last: bool = False) -> np.ndarray:
        more: dict[str, np.ndarray] = {}
        if self._levels:
            # Every token counts as one of the picture: behind text there are zeros to add.
            tokens, width = inputs_embeds.shape[1:]
            parts = inputs_embeds.reshape(tokens, 1 + self._levels, width // (1 + self._levels)).transpose(1, 0, 2)
            inputs_embeds = parts[:1]
            more = {"visual_pos_masks": np.ones((1, tokens), bool), "deepstack_visual_embeds": parts[1:]}
        return self._decoder.forward(inputs_embeds, position_ids, last, more)


class _Plain:
    """The vision part as one graph."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def __call__(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        seen = [self._graph(frame)[0] for frame in one_by_one(inputs)]
        return np.concatenate([features.reshape(-1, features.shape[-1]) for features in seen])


def _decoder(core: Any, path: Path, config: dict[str, Any]) -> Paged | Stateful:
    try:
        return (Stateful if path.suffix == ".onnx" else Paged)(core, path, config)
    except RuntimeError as error:
        raise _refused(path, error) from None


def _compile(core: Any, path: Path, config: dict[str, Any]) -> Any:
    try:
        model = core.read_model(path)
        if path.suffix == ".onnx":
            changes.sum_in_float32(model)
        return core.compile_model(model, "CPU", config)
    except RuntimeError as error:
        raise _refused(path, error) from None


def _refused(path: Path, error: RuntimeError) -> UserError:
    reason = str(error).strip().splitlines()[-1]
    return UserError(f"OpenVINO can't load {path} ({reason}); copy or export the bundle again")
