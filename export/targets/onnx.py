"""ONNX files named and shaped as transformers.js expects them, int4 and int8 weights as com.microsoft MatMulNBits.

MatMulNBits knows blocks of 16 to 256 values. int8 has one scale per output channel, so that scale is repeated for each
block: the integers and their values stay the same. A bundle's name in transformers.js (fp32, fp16, q8, q4), and what
its files end with, follow the decoder's scheme.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from masters_edge.export.genai import ortgenai
from masters_edge.export.lowering import onnx_graphs
from masters_edge.export.lowering.onnx_graphs import Editor
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.targets import Lowering
from masters_edge.quantization.schemes import SCHEMES as ALL_SCHEMES

BACKEND = "onnxruntime"
VERSIONS = ("onnx", "onnxscript", "onnxruntime")
SCHEMES = tuple(ALL_SCHEMES)
OPSET = 20
_JS, _GENAI = "transformers.js ({})", "onnxruntime-genai (`og.Model(folder)`), one picture at a time"
RUNTIMES = {
    "smolvlm": (_JS.format("with its own resizing, which differs from PyTorch's"),),
    "idefics3": (_JS.format("with its own resizing, which differs from PyTorch's"),),
    "qwen2_5_vl": (_JS.format("with its own resizing, which differs from PyTorch's"), _GENAI),
    "qwen3_vl": (_JS.format("with its own resizing, which differs from PyTorch's"), _GENAI),
    "internvl": (_JS.format("as `llava`, one tile a picture"),),
}
# MatMulNBits: 1 multiplies in float32, 4 quantizes the activations to int8 and is faster.
EXACT, FAST = 1, 4
_LARGEST_BLOCK, _USUAL_BLOCK = 128, 32


def write(lowering: Lowering) -> dict[str, str]:
    """One ONNX file per part under `onnx/`, the settings around them, and what else a known runtime asks for.

    Returns part -> file.
    """
    graphs = onnx_graphs.write(lowering, OPSET, _product, fuse=True)
    if lowering.student.model_type in ortgenai.MODEL_TYPES:
        ortgenai.write(lowering.student, lowering.folder, graphs)
    return graphs


def ship(lowering: Lowering, graphs: dict[str, str]) -> bool:
    """Let MatMulNBits use its fast kernels; weights are not touched. False where no graph has one."""
    changed = False
    for name in graphs.values():
        model = onnx.load(lowering.folder / name, load_external_data=False)
        levels = [a for node in model.graph.node for a in node.attribute if a.name == "accuracy_level"]
        for level in levels:
            level.i = FAST
        if levels:
            onnx.save(model, lowering.folder / name)
            changed = True
    return changed


def integers(folder: Path, graphs: dict[str, str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Quantized weights of the finished files: parameter name, int8 [out, in], float32 scales [out, groups]."""
    for file in graphs.values():
        model, arrays = onnx_graphs.initializers(folder / file)
        for node in model.graph.node:
            if node.op_type == "MatMulNBits":
                about = {a.name: a.i for a in node.attribute}
                packed, scales = arrays[node.input[1]], arrays[node.input[2]].reshape(about["N"], -1)
                found = unpack(packed, about["bits"])[:, : about["K"]]
                if about["bits"] == 8 and (scales == scales[:, :1]).all():
                    scales = scales[:, :1]  # one scale per channel, repeated for the blocks
                yield node.input[1].removesuffix(".integers"), found, scales
        table = onnx_graphs.embedding_integers(model, arrays)
        if table is not None:
            yield table


def pack(record: QuantizedTensor) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """MatMulNBits' inputs: weights uint8 [out, blocks, bytes], scales float32 [out * blocks], zero points.

    Values are unsigned; 4 bits are two a byte, the earlier one in the low half. A last block that the input features
    don't fill ends in zeros. Zero points are packed alike, or None where all are zero, which is the operator's default
    (the middle of the range).
    """
    if record.bits not in (4, 8):
        raise ValueError(f"{record.name}: {record.bits} bits; only 4 and 8 are packed here")
    size, middle = block_size(record), 1 << (record.bits - 1)
    out, inside = record.integers.shape
    blocks = -(-inside // size)
    values = np.pad(record.integers.astype(np.int16), ((0, 0), (0, blocks * size - inside)))
    weights = (values + middle).astype(np.uint8).reshape(out, blocks, size)
    groups = np.arange(blocks) * size // record.group_size
    scales = record.scales[:, groups].astype(np.float32).reshape(-1)
    zeros = (record.zero_points[:, groups].astype(np.int16) + middle).astype(np.uint8)
    if record.bits == 4:
        weights = onnx_graphs.pack(weights)
        zeros = onnx_graphs.pack(np.pad(zeros, ((0, 0), (0, blocks % 2))))
    return weights, scales, zeros.reshape(-1) if record.zero_points.any() else None


def unpack(weights: np.ndarray, bits: int) -> np.ndarray:
    """The reverse of `pack` for the weights: int8 [out, blocks * block size]."""
    unsigned = onnx_graphs.unpack(weights) if bits == 4 else weights
    return onnx_graphs.signed(unsigned, bits).reshape(len(weights), -1)


def block_size(record: QuantizedTensor) -> int:
    """Values in one block: the record's group, or for a scale per channel the largest power of two that fits.

    Where none from 16 on divides the input features, blocks of 32 are filled up at the end.
    """
    inside = record.integers.shape[1]
    if record.group_size < inside or (record.group_size & (record.group_size - 1) == 0 and 16 <= inside <= 256):
        if record.group_size not in (16, 32, 64, 128, 256):
            raise ValueError(f"{record.name}: MatMulNBits has no blocks of {record.group_size}")
        return record.group_size
    largest = min(inside & -inside, _LARGEST_BLOCK)
    return largest if largest >= 16 else _USUAL_BLOCK


def _product(editor: Editor, x: ir.Value, record: QuantizedTensor) -> ir.Value:
    """x times the transposed weight. Names of the integers say whose they are."""
    out, inside = record.integers.shape
    arrays = dict(zip(("integers", "scales", "zero_points"), pack(record)))
    inputs = [editor.weight(f"{record.name}.{field}", array) for field, array in arrays.items() if array is not None]
    return editor.node(
        "MatMulNBits",
        x,
        *inputs,
        domain="com.microsoft",
        K=inside,
        N=out,
        bits=record.bits,
        block_size=block_size(record),
        accuracy_level=EXACT,
    )
