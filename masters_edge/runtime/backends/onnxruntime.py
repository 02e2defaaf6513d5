"""ONNX Runtime on the CPU. The KV cache stays inside the runtime's own memory between steps.

Decoders in ONNX Runtime's own operators (`GroupQueryAttention`) write new keys and values into one buffer, which has
room for more tokens than there are; others give the whole cache anew at every step.
"""

from pathlib import Path
from typing import Any

import numpy as np

from masters_edge.common.errors import UserError
from masters_edge.runtime.backends._frames import one_by_one

AVAILABLE_FOR = ("onnx", "onnx_portable")
PACKAGE = "onnxruntime"
SUFFIXES = (".onnx",)
# An optional input of the decoder, which those have whose past and present may share a buffer.
KEEP = "num_logits_to_keep"
_ROOM = 256  # tokens that a new buffer has more than are needed, at least
# An ONNX file with one node: b [n, 2] is a [n, 2] times a matrix of ones.
_PRODUCT = (
    b'\x08\x08:_\n\x11\n\x01a\n\x01w\x12\x01b"\x06MatMul\x12\x01g*\x1b\x08\x02\x08\x02\x10\x01"\x10\x00\x00\x80?\x00'
    b"\x00\x80?\x00\x00\x80?\x00\x00\x80?B\x01wZ\x14\n\x01a\x12\x0f\n\r\x08\x01\x12\t\n\x03\x12\x01n\n\x02\x08\x02b\x14\n\x01b"
    b"\x12\x0f\n\r\x08\x01\x12\t\n\x03\x12\x01n\n\x02\x08\x02B\x04\n\x00\x10\r"
)


def open_backend(folder: Path, graphs: dict[str, str], threads: int, exact: bool = False) -> "OnnxRuntime":
    """Load the three graphs; `threads` is the number of threads inside one operator.

    How exact a MatMulNBits is stands in the graph itself (`accuracy_level`); `exact` says it for those that ONNX
    Runtime makes of DequantizeLinear and MatMul.
    """
    return OnnxRuntime(folder, graphs, threads, exact)


def try_out() -> None:
    """A product of two matrices."""
    import onnxruntime as ort

    session = ort.InferenceSession(_PRODUCT, providers=["CPUExecutionProvider"])
    session.run(None, {"a": np.ones((1, 2), np.float32)})


class OnnxRuntime:
    """Runs transformers.js-style graphs (names in CONTRACTS: `pixel_values`, `inputs_embeds`, `past_key_values.*`)."""

    name = "onnxruntime"

    def __init__(self, folder: Path, graphs: dict[str, str], threads: int, exact: bool) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.enable_mem_pattern = False  # one more block as large as all that the first run took
        # Threads that wait spin for as long as it takes to the next operator, and no longer: those that spin on and on
        # slow a busy machine down several times, and heat a phone. Before 1.32 they knew only all or nothing.
        short = tuple(map(int, ort.__version__.split(".")[:2])) >= (1, 32)
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if short else "0")
        options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
        if exact:
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        self._vision, self._embed, decoder = (
            _session(folder / graphs[part], options) for part in ("vision_encoder", "embed_tokens", "decoder")
        )
        shared = any(item.name == KEEP for item in decoder.get_overridable_initializers())
        self._cache = _Shared(decoder) if shared else _Copied(decoder)

    def vision(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        seen = [self._vision.run(["image_features"], frame)[0] for frame in one_by_one(inputs)]
        return np.concatenate([features.reshape(-1, features.shape[-1]) for features in seen])

    def embed(self, input_ids: np.ndarray) -> np.ndarray:
        return self._embed.run(["inputs_embeds"], {"input_ids": input_ids})[0]

    def start(self, kept: int = 0) -> int:
        return self._cache.start(kept)

    def forward(self, inputs_embeds: np.ndarray, position_ids: np.ndarray, last: bool = False) -> np.ndarray:
        return self._cache.forward(inputs_embeds, position_ids, last)


class _Copied:
    """A decoder that gives past and new keys and values together, which are its past in the next step."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._outputs = [output.name for output in decoder.get_outputs()]
        self._empty = {
            item.name: _value(np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32)) for item in _past(decoder)
        }
        self.start()

    def start(self, kept: int = 0) -> int:
        self._cache, self._length = dict(self._empty), 0
        return 0

    def forward(self, inputs_embeds: np.ndarray, position_ids: np.ndarray, last: bool) -> np.ndarray:
        total = self._length + inputs_embeds.shape[1]
        values = {name: _value(array) for name, array in _feed(inputs_embeds, position_ids, total).items()}
        found = dict(zip(self._outputs, self._decoder.run_with_ort_values(self._outputs, {**values, **self._cache})))
        self._cache = {name: found[name.replace("past_key_values", "present")] for name in self._cache}
        self._length = total
        return found["logits"].numpy()


class _Shared:
    """A decoder that writes behind the past, into the same buffer."""

    def __init__(self, decoder: Any) -> None:
        self._decoder, self._length, self._room = decoder, 0, 0
        self._shapes = {item.name: (item.shape[1], item.shape[3]) for item in _past(decoder)}
        self._keep = [_value(np.array([count], np.int64)) for count in (0, 1)]
        self._buffers: dict[str, Any] = {}

    def start(self, kept: int = 0) -> int:
        self._length = min(kept, self._length)
        return self._length

    def forward(self, inputs_embeds: np.ndarray, position_ids: np.ndarray, last: bool) -> np.ndarray:
        total = self._length + inputs_embeds.shape[1]
        if total > self._room:
            self._grow(total)
        for name, array in _feed(inputs_embeds, position_ids, total).items():
            self._binding.bind_ortvalue_input(name, _value(array))
        self._binding.bind_ortvalue_input(KEEP, self._keep[last])
        self._binding.bind_output("logits")  # anew each time: what came last is bound otherwise, shape and all
        self._decoder.run_with_iobinding(self._binding)
        self._length = total
        return self._binding.get_outputs()[0].numpy()

    def _grow(self, total: int) -> None:
        """Buffers for at least so many tokens, with what is in the old ones."""
        self._room = total + max(_ROOM, total // 2)
        self._binding = self._decoder.io_binding()
        self._binding.bind_output("logits")  # the first output
        for name, (heads, size) in self._shapes.items():
            array = np.zeros((1, heads, self._room, size), np.float32)
            if self._length:
                array[:, :, : self._length] = self._buffers[name].numpy()[:, :, : self._length]
            self._buffers[name] = buffer = _value(array)
            self._binding.bind_ortvalue_input(name, buffer)
            self._binding.bind_ortvalue_output(name.replace("past_key_values", "present"), buffer)


def _past(decoder: Any) -> list[Any]:
    return [item for item in decoder.get_inputs() if item.name.startswith("past_key_values.")]


def _feed(inputs_embeds: np.ndarray, position_ids: np.ndarray, total: int) -> dict[str, np.ndarray]:
    return {
        "inputs_embeds": inputs_embeds,
        "attention_mask": np.ones((1, total), np.int64),
        "position_ids": position_ids,
    }


def _value(array: np.ndarray) -> Any:
    import onnxruntime as ort

    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _session(path: Path, options: Any) -> Any:
    import onnxruntime as ort

    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for each cause, all of them plain Exceptions
        raise UserError(f"ONNX Runtime can't load {path} ({error}); copy or export the bundle again") from None
