"""ExecuTorch programs (.pte) for XNNPACK, run here through ExecuTorch's own Python runtime.

A part's functions ("prefill", "decode") lie in one file and share weights and KV cache. First every weight is written
as float32 and proven; what ships is lowered again with torchao's integers, which XNNPACK multiplies with activations
rounded to int8 (`static_graphs/xnnpack.py`). `weights.json` says which segment of which file holds whose integers.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from masters_edge.export import static_graphs
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.settings import write_json, write_settings
from masters_edge.export.static_graphs import unsupported, xnnpack
from masters_edge.export.static_graphs.parts import StaticPart
from masters_edge.export.static_graphs.weights import Layer
from masters_edge.export.targets import Lowering

__all__ = ["unsupported"]

BACKEND = "executorch"
VERSIONS = ("executorch",)
# Integers with float activations have no kernels in XNNPACK; float16 was not tried.
SCHEMES = ("fp32", "int8-a8", "int4-a8")
WEIGHTS = "weights.json"


def write(lowering: Lowering) -> dict[str, str]:
    """One file for each part, weights in float32, and the settings around them. Returns part -> file.

    XNNPACK keeps the scales of int4 groups as bfloat16: records and student take on the rounded ones first, so that
    PyTorch is asked about what ships.
    """
    _round_scales(lowering)
    found = {}
    for index, part in enumerate(_parts(lowering)):
        found[part.name] = f"{part.name}.pte"
        _write_part(part, {}, xnnpack.exact_layer, lowering.folder / found[part.name])
        lowering.on_part(index + 1)
    write_settings(lowering.student, lowering.folder)
    return found


def ship(lowering: Lowering, graphs: dict[str, str]) -> bool:
    """Write the parts that have integers again, with them; False where none has."""
    records = lowering.weights.tensors
    places: dict[str, Any] = {}
    for part in _parts(lowering):
        mine = part.records(records)
        if mine:
            _write_part(part, records, xnnpack.layer, lowering.folder / graphs[part.name])
            places |= {record.name: {"graph": part.name, **_segments(record)} for record in mine.values()}
    if places:
        write_json(lowering.folder / WEIGHTS, places)
    return bool(places)


def integers(folder: Path, graphs: Mapping[str, str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Every quantized weight of the files: parameter name, int8 [out, in], float32 scales [out, groups]."""
    path = folder / WEIGHTS
    places = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    segments = {part: _named_data(folder / file) for part, file in graphs.items()}
    for name, place in places.items():
        data, scales = (segments[place["graph"]][place[key]] for key in ("integers", "scales"))
        yield (
            name,
            _unpack(data, place["shape"], place["bits"]),
            _floats(scales, place["scales_are"], place["shape"][0]),
        )


def _unpack(data: bytes, shape: list[int], bits: int) -> np.ndarray:
    """int8 [out, in] of XNNPACK's segment: int8 as they are, or two unsigned 4-bit values a byte, the first one low."""
    if bits == 8:
        return np.frombuffer(data, np.int8).reshape(shape)
    packed = np.frombuffer(data, np.uint8)
    return (np.stack([packed & 15, packed >> 4], axis=-1).reshape(shape).astype(np.int16) - 8).astype(np.int8)


def _floats(data: bytes, dtype: str, rows: int) -> np.ndarray:
    """float32 [rows, groups]; a bfloat16 is a float32's upper half."""
    if dtype == "bfloat16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(rows, -1)
    return np.frombuffer(data, np.float32).reshape(rows, -1)


def _round_scales(lowering: Lowering) -> None:
    """Round the scales of groups to bfloat16, and give the student's weights the meaning that they have then."""
    parameters = dict(lowering.student.model.named_parameters(remove_duplicate=False))
    changed = False
    for name, record in lowering.weights.tensors.items():
        rounded = torch.from_numpy(record.scales).bfloat16().half().numpy()
        if _grouped(record) and not np.array_equal(rounded, record.scales):
            lowering.weights.tensors[name] = replace(record, scales=rounded)
            if name in parameters:
                parameters[name].data = torch.from_numpy(lowering.weights.tensors[name].dequantize())
            changed = True
    if changed:
        lowering.weights.notes.append(
            "the scales of int4 groups are bfloat16, as XNNPACK keeps them; the integers are the same"
        )


def _parts(lowering: Lowering) -> list[StaticPart]:
    return static_graphs.parts(lowering.student, torch.int64)


def _write_part(part: StaticPart, records: Mapping[str, QuantizedTensor], layer: Layer, path: Path) -> None:
    """All functions of a part in one file, lowered to XNNPACK."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes import MemoryPlanningPass

    plain = {torch.ops.aten.scaled_dot_product_attention.default: _attention}
    programs = {name: part.capture(name, records, layer).run_decompositions(plain) for name in part.functions}
    edge = to_edge_transform_and_lower(
        programs,
        partitioner=[XnnpackPartitioner()],
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    shared = part.name == "decoder"  # the KV cache
    planning = MemoryPlanningPass(share_mutable_buffers=shared)
    program = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
    with open(path, "wb") as file:
        program.write_to_file(file)


def _attention(query: Any, key: Any, value: Any, attn_mask: Any = None, *rest: Any, **options: Any) -> torch.Tensor:
    """Attention of [1, heads, rows, head_size] in operators that XNNPACK has; PyTorch's own way to take it apart guards
    against rows that see nothing."""
    query, key, value = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
    scores = torch.bmm(query, key.transpose(1, 2)) * query.shape[-1] ** -0.5
    if attn_mask is not None:
        scores = scores + attn_mask[0]
    return torch.bmm(torch.softmax(scores, dim=-1), value)[None]


def _segments(record: QuantizedTensor) -> dict[str, Any]:
    """Where XNNPACK's lowering puts a weight: under the hash of its bytes, so they are these and no other."""
    data = record.integers
    if record.bits == 4:
        unsigned = (record.integers.astype(np.int16) + 8).astype(np.uint8)
        data = unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)
    scales = torch.from_numpy(record.scales).float()
    kept = scales.bfloat16().view(torch.int16) if _grouped(record) else scales
    return {
        "integers": hashlib.sha256(data.tobytes()).hexdigest(),
        "scales": f"scale_{hashlib.sha256(kept.numpy().tobytes()).hexdigest()}",
        "shape": list(record.integers.shape),
        "bits": record.bits,
        "scales_are": "bfloat16" if _grouped(record) else "float32",
    }


def _grouped(record: QuantizedTensor) -> bool:
    return record.scales.shape[1] > 1


def _named_data(path: Path) -> dict[str, bytes]:
    """The segments of a .pte that have a name."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    found = deserialize_pte_binary(path.read_bytes()).named_data
    return {} if found is None else {key: found.buffers[entry.buffer_index] for key, entry in found.pte_data.items()}
