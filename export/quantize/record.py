"""The neutral record of one quantized weight, and the safetensors file that holds them.

torchao chooses the integers once; ONNX and every later target lower this record and nothing else. A file keeps
`<name>.integers`, `<name>.scales`, `<name>.zero_points` for each weight, and the rest in its metadata.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from masters_edge.common.errors import UserError

SCHEMA_VERSION = "2"
_ARRAYS = ("integers", "scales", "zero_points")


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """weight ~ (integers - zero_points) * scales, each scale and zero point shared by `group_size` values along `axis`.

    `name` is the parameter's name in the student. `integers` int8 [out, in], each within `bits` bits, signed;
    `scales` float16 [out, in / group_size], so that no target has to round them; `zero_points` int8
    [out, in / group_size]. One scale per output channel is a group of all input features.
    """

    name: str
    integers: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray
    bits: int
    group_size: int
    axis: int = 1

    def __post_init__(self) -> None:
        out, inside = self.integers.shape
        grouped = (out, inside // self.group_size)
        if self.axis != 1 or inside % self.group_size or {self.scales.shape, self.zero_points.shape} != {grouped}:
            raise ValueError(f"{self.name}: {self.integers.shape} integers don't fit {self.scales.shape} scales")
        if self.integers.dtype != np.int8 or self.zero_points.dtype != np.int8 or self.scales.dtype != np.float16:
            raise ValueError(f"{self.name}: expected int8 integers and zero points, float16 scales")
        low, high = -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        if self.integers.min() < low or self.integers.max() > high:
            raise ValueError(f"{self.name}: integers outside {low} to {high}")

    def dequantize(self) -> np.ndarray:
        """float32 [out, in], the same bits as torchao's own dequantization."""
        out, inside = self.integers.shape
        grouped = self.integers.reshape(out, -1, self.group_size).astype(np.float32)
        zeros, scales = self.zero_points.astype(np.float32), self.scales.astype(np.float32)
        return ((grouped - zeros[..., None]) * scales[..., None]).reshape(out, inside)


def save(path: Path, tensors: Iterable[QuantizedTensor], about: dict[str, str] | None = None) -> None:
    """Write the records to one safetensors file, with `about` added to its metadata."""
    arrays: dict[str, np.ndarray] = {}
    layout = {}
    for tensor in tensors:
        for field in _ARRAYS:
            arrays[f"{tensor.name}.{field}"] = np.ascontiguousarray(getattr(tensor, field))
        layout[tensor.name] = {"bits": tensor.bits, "group_size": tensor.group_size, "axis": tensor.axis}
    from safetensors.numpy import save_file

    save_file(arrays, path, {**(about or {}), "schema_version": SCHEMA_VERSION, "tensors": json.dumps(layout)})


def load(path: Path) -> list[QuantizedTensor]:
    """Read the records that `save` wrote; raises UserError for another schema version or a broken file."""
    return read(path)[0]


def read(path: Path) -> tuple[list[QuantizedTensor], dict[str, str]]:
    """The records, and the file's metadata; raises UserError as `load` does."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("schema_version") != SCHEMA_VERSION:
                found = metadata.get("schema_version", "none")
                raise UserError(
                    f"{path} has schema version {found}, this masters-edge reads {SCHEMA_VERSION}; quantize again"
                )
            tensors = []
            for name, layout in json.loads(metadata["tensors"]).items():
                arrays = {field: file.get_tensor(f"{name}.{field}") for field in _ARRAYS}
                tensors.append(QuantizedTensor(name, **arrays, **layout))
            return tensors, metadata
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}); quantize the student again") from None
