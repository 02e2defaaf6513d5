"""ONNX Runtime on the CPU. The KV cache stays inside the runtime's own memory between steps."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from masters_edge.errors import UserError

AVAILABLE_FOR = ("onnx", "onnx_portable")
PACKAGE = "onnxruntime"


def open_backend(folder: Path, graphs: dict[str, str], threads: int, exact: bool = False) -> "OnnxRuntime":
    """Load the three graphs; `threads` is the number of threads inside one operator.

    How exact a MatMulNBits is stands in the graph itself (`accuracy_level`); `exact` says it for those that ONNX
    Runtime makes of DequantizeLinear and MatMul.
    """
    return OnnxRuntime(folder, graphs, threads, exact)


class OnnxRuntime:
    """Runs transformers.js-style graphs (names in CONTRACTS: `pixel_values`, `inputs_embeds`, `past_key_values.*`)."""

    name = "onnxruntime"

    def __init__(self, folder: Path, graphs: dict[str, str], threads: int, exact: bool) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that spin while they wait slow a busy machine down several times, and heat a phone.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if exact:
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        self._vision, self._embed, self._decoder = (
            _session(folder / graphs[part], options) for part in ("vision_encoder", "embed_tokens", "decoder")
        )
        self._outputs = [output.name for output in self._decoder.get_outputs()]
        self._past = [item.name for item in self._decoder.get_inputs() if item.name.startswith("past_key_values.")]
        self._empty: dict[str, ort.OrtValue] = {}
        for item in self._decoder.get_inputs():
            if item.name in self._past:
                shape = (1, item.shape[1], 0, item.shape[3])
                self._empty[item.name] = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
        self.start()

    def vision(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        features = self._vision.run(["image_features"], inputs)[0]
        return features.reshape(-1, features.shape[-1])

    def embed(self, input_ids: np.ndarray) -> np.ndarray:
        return self._embed.run(["inputs_embeds"], {"input_ids": input_ids})[0]

    def start(self) -> None:
        self._cache = dict(self._empty)
        self._length = 0

    def forward(self, inputs_embeds: np.ndarray, position_ids: np.ndarray) -> np.ndarray:
        total = self._length + inputs_embeds.shape[1]
        feed = {
            "inputs_embeds": inputs_embeds,
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": position_ids,
        }
        values = {name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(a)) for name, a in feed.items()}
        found = dict(zip(self._outputs, self._decoder.run_with_ort_values(self._outputs, {**values, **self._cache})))
        self._cache = {name: found[name.replace("past_key_values", "present")] for name in self._past}
        self._length = total
        return found["logits"].numpy()


def _session(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for each cause, all of them plain Exceptions
        raise UserError(f"ONNX Runtime can't load {path} ({error}); copy or export the bundle again") from None
