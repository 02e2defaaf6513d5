"""ONNX files of standard operators alone, for runtimes without com.microsoft's: DequantizeLinear before each MatMul.

Opset 21: int4 weights have a scale per group (`block_size`), int8 weights one per output channel, both laid out
[in, out] as MatMul reads them. Files, names and settings are those of the `onnx` target.
"""

from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir

from masters_edge.export.lowering import onnx_graphs
from masters_edge.export.lowering.onnx_graphs import Editor
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.targets import Lowering
from masters_edge.quantization.schemes import SCHEMES as ALL_SCHEMES

BACKEND = "onnxruntime"
VERSIONS = ("onnx", "onnxscript", "onnxruntime")
SCHEMES = tuple(name for name, scheme in ALL_SCHEMES.items() if scheme.activations is None)
OPSET = 21
# ONNX Runtime makes MatMulNBits of these nodes when it loads them, at the accuracy its session asks for.
SHIPS_FASTER = True


def write(lowering: Lowering) -> dict[str, str]:
    """One ONNX file per part under `onnx/`, and the settings around them. Returns part -> file."""
    return onnx_graphs.write(lowering, OPSET, _product)


def ship(lowering: Lowering, graphs: dict[str, str]) -> bool:
    """The files stay as they are; the runtime chooses its kernels when it loads them."""
    return False


def integers(folder: Path, graphs: dict[str, str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Quantized weights of the finished files: parameter name, int8 [out, in], float32 scales [out, groups]."""
    for file in graphs.values():
        model, arrays = onnx_graphs.initializers(folder / file)
        for node in model.graph.node:
            if node.op_type == "DequantizeLinear":
                scales = arrays[node.input[1]]
                name = node.input[0].removesuffix(".integers")
                yield name, arrays[node.input[0]].T.astype(np.int8), scales.T if scales.ndim == 2 else scales[:, None]
        table = onnx_graphs.embedding_integers(model, arrays)
        if table is not None:
            yield table


def _product(editor: Editor, x: ir.Value, record: QuantizedTensor) -> ir.Value:
    """x times the dequantized weight. Names of the integers say whose they are."""
    if record.zero_points.any():
        raise ValueError(f"{record.name}: only zero points of zero are written here")
    kind = {4: ml_dtypes.int4, 8: np.int8}[record.bits]
    table = editor.weight(f"{record.name}.integers", np.ascontiguousarray(record.integers.T).astype(kind))
    name, scales = f"{record.name}.scales", record.scales.astype(np.float32)
    if record.group_size == record.integers.shape[1]:  # a scale for each channel
        factors = editor.weight(name, scales.reshape(-1))
        weight = editor.node("DequantizeLinear", table, factors, axis=1)
    else:
        factors = editor.weight(name, np.ascontiguousarray(scales.T))
        weight = editor.node("DequantizeLinear", table, factors, axis=0, block_size=record.group_size)
    return editor.node("MatMul", x, weight)
