"""The neutral record of one quantized weight, and the safetensors file that holds them.

torchao chooses the integers once; ONNX and every later target lower this record and nothing else. A file keeps
`<name>.integers`, `<name>.scales`, `<name>.zero_points` for each weight, and the rest in its metadata.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from masters_edge.errors import UserError

SCHEMA_VERSION = "1"
_ARRAYS = ("integers", "scales", "zero_points")


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """weight ~ (integers - zero_points) * scales, each scale and zero point shared by `group_size` values along `axis`.

    `name` is the parameter's name in the student. `integers` int8 [out, in], each within `bits` bits, signed;
    `scales` float32 [out, in / group_size]; `zero_points` int8 [out, in / group_size].
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
        low, high = -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        if self.integers.min() < low or self.integers.max() > high:
            raise ValueError(f"{self.name}: integers outside {low} to {high}")

    def dequantize(self) -> np.ndarray:
        """float32 [out, in]."""
        out, inside = self.integers.shape
        grouped = self.integers.reshape(out, -1, self.group_size).astype(np.float32)
        values = (grouped - self.zero_points[..., None].astype(np.float32)) * self.scales[..., None]
        return values.reshape(out, inside)


def save(path: Path, tensors: Iterable[QuantizedTensor]) -> None:
    """Write the records to one safetensors file."""
    arrays: dict[str, np.ndarray] = {}
    about = {}
    for tensor in tensors:
        for field in _ARRAYS:
            arrays[f"{tensor.name}.{field}"] = np.ascontiguousarray(getattr(tensor, field))
        about[tensor.name] = {"bits": tensor.bits, "group_size": tensor.group_size, "axis": tensor.axis}
    from safetensors.numpy import save_file

    save_file(arrays, path, {"schema_version": SCHEMA_VERSION, "tensors": json.dumps(about)})


def load(path: Path) -> list[QuantizedTensor]:
    """Read what `save` wrote; raises UserError for another schema version or a broken file."""
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
            for name, about in json.loads(metadata["tensors"]).items():
                arrays = {field: file.get_tensor(f"{name}.{field}") for field in _ARRAYS}
                tensors.append(QuantizedTensor(name, **arrays, **about))
            return tensors
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}); quantize the student again") from None
