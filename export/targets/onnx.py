"""ONNX files named and shaped as transformers.js expects them, int4 weights as com.microsoft MatMulNBits.

The exporter names each initializer after its parameter, so a weight's record is found by name. Lowering happens on
the graph as it comes, before any optimizer can merge or rename a weight; then the optimizer runs.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch

from masters_edge.export.graphs import Part
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.settings import write_settings
from masters_edge.export.student import LoadedStudent

BACKEND = "onnxruntime"
VERSIONS = ("onnx", "onnxscript", "onnxruntime")
OPSET = 20
STEMS = {"vision_encoder": "vision_encoder", "embed_tokens": "embed_tokens", "decoder": "decoder_model_merged"}
# transformers.js: the name of a scheme, and what its files end with.
DTYPES = {"fp32": ("fp32", ""), "int4": ("q4", "_q4")}
# Protobuf ends at 2 GiB; a graph with more weights than this keeps them in a file beside it.
EXTERNAL_FROM = 1 << 30
# MatMulNBits: 1 multiplies in float32, 4 quantizes the activations to int8 and is faster.
EXACT, FAST = 1, 4


def write(
    parts: list[Part],
    tensors: list[QuantizedTensor],
    student: LoadedStudent,
    scheme: str,
    folder: Path,
    on_part: Callable[[int], None],
) -> dict[str, str]:
    """One ONNX file per part under `onnx/`, and the settings around them. Returns part -> file."""
    dtype, suffix = DTYPES[scheme]
    (folder / "onnx").mkdir()
    graphs, external = {}, []
    records = {tensor.name: tensor for tensor in tensors}
    for index, part in enumerate(parts):
        model = lower(part, records)
        stem = STEMS[part.name]
        graphs[part.name] = f"onnx/{stem}{suffix}.onnx"
        weights = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
        path = folder / graphs[part.name]
        if weights > EXTERNAL_FROM:
            external.append(stem)
            ir.save(model, path, external_data=f"{path.name}_data", size_threshold_bytes=1024)
        else:
            ir.save(model, path)
        on_part(index + 1)
    write_settings(student, folder, dtype, external)
    return graphs


def ship(folder: Path, graphs: dict[str, str]) -> bool:
    """Let MatMulNBits use its fast kernels; weights are not touched. False where no graph has one."""
    changed = False
    for name in graphs.values():
        model = onnx.load(folder / name, load_external_data=False)
        levels = [a for node in model.graph.node for a in node.attribute if a.name == "accuracy_level"]
        for level in levels:
            level.i = FAST
        if levels:
            onnx.save(model, folder / name)
            changed = True
    return changed


def lower(part: Part, records: dict[str, QuantizedTensor]) -> ir.Model:
    """One part as an ONNX model: captured, integers in place, optimized, inputs and outputs named."""
    program = torch.onnx.export(
        part.capture(),
        part.example,
        input_names=part.inputs,
        output_names=part.outputs,
        opset_version=OPSET,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    if program is None:
        raise RuntimeError(f"torch.onnx.export gave nothing for {part.name}")
    model = program.model
    for name, value in list(model.graph.initializers.items()):
        record = records.get(part.student_name(name))
        if record is not None:
            _lower_weight(model.graph, value, record)
    program.optimize()
    _name_dimensions(model, part.dimensions)
    _forget_origins(model)
    return model


def pack(record: QuantizedTensor) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """MatMulNBits' inputs: weights uint8 [out, groups, group_size / 2], scales float32 [out * groups], zero points.

    Two unsigned values a byte, the earlier one in the low half. Zero points are uint8 [out * ceil(groups / 2)], or
    None where all are zero, which is the operator's default (8 as unsigned).
    """
    if record.bits != 4:
        raise ValueError(f"{record.name}: {record.bits} bits; only 4 are packed here")
    out, _ = record.integers.shape
    unsigned = (record.integers.astype(np.int16) + 8).astype(np.uint8).reshape(out, -1, record.group_size)
    weights = unsigned[..., 0::2] | (unsigned[..., 1::2] << 4)
    scales = record.scales.astype(np.float32).reshape(-1)
    if not record.zero_points.any():
        return weights, scales, None
    zeros = (record.zero_points.astype(np.int16) + 8).astype(np.uint8)
    if zeros.shape[1] % 2:
        zeros = np.pad(zeros, ((0, 0), (0, 1)))
    return weights, scales, (zeros[:, 0::2] | (zeros[:, 1::2] << 4)).reshape(-1)


def unpack(weights: np.ndarray) -> np.ndarray:
    """The reverse of `pack` for the weights: int8 [out, groups * group_size]."""
    unsigned = np.stack([weights & 15, weights >> 4], axis=-1).reshape(weights.shape[0], -1)
    return (unsigned.astype(np.int16) - 8).astype(np.int8)


def _lower_weight(graph: ir.Graph, weight: ir.Value, record: QuantizedTensor) -> None:
    """Replace Transpose(weight) -> MatMul by MatMulNBits with the record's integers, whose name says whose they are."""
    out, inside = record.integers.shape
    arrays = dict(zip(("integers", "scales", "zero_points"), pack(record)))
    inputs = []
    for field, array in arrays.items():
        if array is not None:
            tensor = ir.tensor(array, name=f"{record.name}.{field}")
            value = ir.Value(
                name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            graph.register_initializer(value)
            inputs.append(value)
    for transpose in [use.node for use in weight.uses()]:
        products = [use.node for use in transpose.outputs[0].uses()]
        if transpose.op_type != "Transpose" or any(node.op_type != "MatMul" for node in products):
            raise RuntimeError(f"{record.name} feeds {transpose.op_type}; expected Transpose and MatMul")
        for product in products:
            attributes = dict(K=inside, N=out, bits=record.bits, block_size=record.group_size, accuracy_level=EXACT)
            node = ir.node(
                "MatMulNBits", [product.inputs[0], *inputs], attributes=attributes, domain="com.microsoft", version=1
            )
            graph.insert_before(product, node)
            _take_place(graph, product.outputs[0], node.outputs[0])
            graph.remove(product, safe=True)
        graph.remove(transpose, safe=True)
    graph.initializers.pop(str(weight.name))
    graph.opset_imports["com.microsoft"] = 1


def _take_place(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Everything that read `old` reads `new`, which takes its name, shape and type."""
    name = old.name
    new.shape, new.type = old.shape, old.type
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = new
    ir.convenience.replace_all_uses_with(old, new)
    old.name = f"{name}.before"
    new.name = name


def _name_dimensions(model: ir.Model, dimensions: dict[str, list[int | str]]) -> None:
    """Give inputs and outputs their dimension names; what lies between is inferred by the runtime."""
    ends = [*model.graph.inputs, *model.graph.outputs]
    for value in ends:
        value.shape = ir.Shape(dimensions[str(value.name)])
    known = {id(value) for value in ends}
    for node in model.graph:
        for output in node.outputs:
            if id(output) not in known:
                output.shape = output.type = None


def _forget_origins(model: ir.Model) -> None:
    """Drop stack traces and paths of the machine that exported; in a small model they outweigh the weights."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
