"""One GGUF file: metadata and tensors in; and out again, the quantized parameters it holds.

llama.cpp splits some parameters and orders the rows of others its own way. A note in the file's metadata, `ORIGIN`,
says for each tensor which rows of which parameter it is, so that integers can be read back by the student's own names.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

from masters_edge.export.gguf_files import blocks
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.quantize.weights import Weights

ORIGIN = "masters_edge.run.origin"
SCALES = "masters_edge.scales"


@dataclass(frozen=True)
class Piece:
    """A tensor of a file: `rows` (first, last + 1) of a parameter, or all of them.

    `heads`: where not 0, the rows of each head are ordered for llama.cpp's Llama rotation, which turns neighbours where
    transformers turns halves. `twin` names another parameter that is the same weight.
    """

    parameter: str
    rows: tuple[int, int] | None = None
    heads: int = 0
    twin: str | None = None

    def of(self, values: np.ndarray) -> np.ndarray:
        """This piece of the parameter's values, or of anything else that has a row for each of its rows."""
        if self.rows is not None:
            values = values[slice(*self.rows)]
        return values[self._order(len(values))] if self.heads else values

    def back(self, values: np.ndarray) -> np.ndarray:
        """The rows in the parameter's own order again."""
        return values[np.argsort(self._order(len(values)))] if self.heads else values

    def _order(self, count: int) -> np.ndarray:
        """Places of the rows: of each head 0, half, 1, half + 1, ..."""
        return np.arange(count).reshape(self.heads, 2, -1).swapaxes(1, 2).reshape(-1)


@dataclass(frozen=True)
class Content:
    """What goes into one file: `pieces` of parameters by their names in it, `arrays` made for it, metadata `keys`."""

    architecture: str
    keys: dict[str, Any]
    pieces: dict[str, Piece]
    arrays: dict[str, np.ndarray]


def write(path: Path, content: Content, values: Mapping[str, np.ndarray], weights: Weights, exact: bool) -> None:
    """Write the file. `values`: the student's parameters in float32, by name.

    With `exact` everything is float32, what the integers mean included. Otherwise quantized parameters are blocks, and
    those of float16 parts float16, but for norms, biases and tables that ggml adds, which have to stay float32. Int8 of
    rows that blocks of 32 don't fill stays float32 too.
    """
    writer = GGUFWriter(path, content.architecture)
    for key, value in content.keys.items():
        _add(writer, key, value)
    origins = {name: vars(piece) for name, piece in content.pieces.items()}
    writer.add_string(ORIGIN, json.dumps(origins))
    for name, piece in content.pieces.items():
        record = None if exact else weights.tensors.get(piece.parameter)
        if record is not None and blocks.fits(record):
            packed = blocks.encode(_part(record, piece))
            writer.add_tensor(name, packed, raw_dtype=blocks.TYPES[record.bits])
        else:
            if record is not None:  # what the integers mean in float32; with the scales they can still be told
                writer.add_array(f"{SCALES}.{name}", _part(record, piece).scales[:, 0].astype(np.float32).tolist())
            half = not exact and piece.parameter in weights.float16 and _may_be_half(name)
            array = piece.of(values[piece.parameter]).astype(np.float16 if half else np.float32, copy=False)
            writer.add_tensor(name, np.ascontiguousarray(array))
    for name, array in content.arrays.items():
        writer.add_tensor(name, np.ascontiguousarray(array, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_integers(path: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each quantized parameter: its name, integers int8 [out, in], scales float32 [out, in / 32]."""
    reader = GGUFReader(path)
    field = reader.get_field(ORIGIN)
    if field is None:
        raise ValueError(f"{path} has no {ORIGIN}")
    origins = {name: Piece(**about) for name, about in json.loads(field.contents()).items()}
    kinds = set(blocks.TYPES.values())
    found: dict[str, list[tuple[Piece, np.ndarray, np.ndarray]]] = {}
    for tensor in reader.tensors:
        scaled = reader.get_field(f"{SCALES}.{tensor.name}")
        if tensor.tensor_type in kinds:
            integers, scales = blocks.decode(tensor.data, GGMLQuantizationType(tensor.tensor_type))
        elif scaled is not None:
            scales = np.asarray(scaled.contents(), np.float32)[:, None]
            integers = np.rint(tensor.data / scales).astype(np.int8)
        else:
            continue
        piece = origins[tensor.name]
        found.setdefault(piece.parameter, []).append((piece, piece.back(integers), piece.back(scales)))
    for name, parts in found.items():
        parts.sort(key=lambda part: part[0].rows or (0, 0))
        integers, scales = (np.concatenate([part[which] for part in parts]) for which in (1, 2))
        yield name, integers, scales
        twin = parts[0][0].twin
        if twin is not None:
            yield twin, integers, scales


def _part(record: QuantizedTensor, piece: Piece) -> QuantizedTensor:
    arrays = {field: piece.of(getattr(record, field)) for field in ("integers", "scales", "zero_points")}
    return QuantizedTensor(**{**vars(record), **arrays})


def _may_be_half(name: str) -> bool:
    """ggml multiplies with float16 matrices, but adds float32 only: position tables and the class token."""
    return "position_embd" not in name and "class_embd" not in name


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    """A metadata value of the type its Python type says; whole numbers are uint32, as llama.cpp reads them."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def renamed(names: Iterable[str], table: Mapping[str, str]) -> dict[str, str]:
    """Parameter name -> name in the file, by modules: {"model.layers.#.mlp.up_proj": "blk.#.ffn_up"}.

    Raises RuntimeError for a parameter that no entry names: a weight must not get lost.
    """
    found = {}
    for name in names:
        module, _, kind = name.rpartition(".")
        numbers = [word for word in module.split(".") if word.isdigit()]
        for number in (numbers[:1], []):
            key = ".".join("#" if [word] == number else word for word in module.split("."))
            if key in table:
                found[name] = table[key].replace("#", number[0] if number else "#") + f".{kind}"
                break
        else:
            raise RuntimeError(f"llama.cpp has no name for {name}")
    return found
