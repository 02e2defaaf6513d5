"""What every ONNX target does alike: capture a part, put integers and float16 in place, name the ends, write the files.

The exporter names each initializer after its parameter, so a weight's record is found by name. Lowering happens on
the graph as it comes, before any optimizer can merge or rename a weight; then the optimizer runs. How a product with
a quantized weight looks is the target's own; a quantized embedding is the same everywhere, in operators that every
runtime has (WebAssembly has no quantized gather).
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import numpy_helper
from onnxscript import optimizer

from masters_edge.export.genai import transformers_js
from masters_edge.export.graphs import Part
from masters_edge.export.lowering import onnx_fused
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.quantize.weights import Weights
from masters_edge.export.settings import write_settings
from masters_edge.export.targets import Lowering
from masters_edge.quantization.schemes import Scheme

STEMS = {"vision_encoder": "vision_encoder", "embed_tokens": "embed_tokens", "decoder": "decoder_model_merged"}
# A graph with more weights than this keeps them in a file beside it, which ONNX Runtime maps and need not copy.
EXTERNAL_FROM = 32 << 20
_HALF = ".float16"  # ends the name of a weight that is stored as float16

# Makes x [..., in] times the record's weight: nodes before `at`, the product returned.
Product = Callable[["Editor", ir.Value, QuantizedTensor], ir.Value]


def write(lowering: Lowering, opset: int, product: Product, fuse: bool = False) -> dict[str, str]:
    """One ONNX file per part under `onnx/`, and the settings around them. Returns part -> file.

    `fuse`: the decoder in ONNX Runtime's own operators (`onnx_fused.py`).
    """
    dtype, suffix = dtype_of(lowering.weights.plan.parts["decoder"])
    (lowering.folder / "onnx").mkdir()
    graphs, external = {}, []
    for index, part in enumerate(lowering.parts):
        model = lower(part, lowering.weights, opset, product, fuse and part.name == "decoder")
        stem = STEMS[part.name]
        graphs[part.name] = f"onnx/{stem}{suffix}.onnx"
        size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
        path = lowering.folder / graphs[part.name]
        if size > EXTERNAL_FROM:
            external.append(stem)
            ir.save(model, path, external_data=f"{path.name}_data", size_threshold_bytes=1024)
        else:
            ir.save(model, path)
        lowering.on_part(index + 1)
    write_settings(lowering.student, lowering.folder)
    transformers_js.write(lowering.student, lowering.folder, dtype, external)
    return graphs


def dtype_of(decoder: Scheme) -> tuple[str, str]:
    """transformers.js: its name for the decoder's scheme, which names the whole bundle, and what files end with."""
    if decoder.bits is None:
        return ("fp16", "_fp16") if decoder.float16 else ("fp32", "")
    return {8: ("q8", "_quantized"), 4: ("q4", "_q4")}[decoder.bits]


def lower(part: Part, weights: Weights, opset: int, product: Product, fuse: bool = False) -> ir.Model:
    """One part as an ONNX model: captured, quantized weights in place, optimized, inputs and outputs named."""
    with onnx_fused.fused(part) if fuse else nullcontext():
        captured = part.capture()
    program = torch.onnx.export(
        captured,
        part.example,
        input_names=part.inputs,
        output_names=part.outputs,
        opset_version=opset,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    if program is None:
        raise RuntimeError(f"torch.onnx.export gave nothing for {part.name}")
    model = program.model
    for name, value in list(model.graph.initializers.items()):
        student_name = part.student_name(name)
        if (record := weights.tensors.get(student_name)) is not None:
            _lower_integers(model.graph, value, record, product)
        elif student_name in weights.float16:
            _lower_float16(model.graph, value)
    # The optimizer would otherwise make small float16 weights float32 again.
    optimizer.optimize_ir(model, should_fold=lambda node: False if _opens_half(node) else None)
    _name_dimensions(model, part.dimensions)
    if fuse:
        onnx_fused.finish(model)
    _forget_origins(model)
    return model


class Editor:
    """Puts new nodes and weights into a graph, all before the node they serve."""

    def __init__(self, graph: ir.Graph, at: ir.Node) -> None:
        self.graph = graph
        self.at = at

    def weight(self, name: str, array: np.ndarray) -> ir.Value:
        """An initializer; the same one where the name is already taken."""
        if name in self.graph.initializers:
            return self.graph.initializers[name]
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def node(self, kind: str, *inputs: ir.Value, domain: str = "", **attributes: int) -> ir.Value:
        """The output of a new node."""
        version = 1 if domain else None
        made = ir.node(kind, list(inputs), attributes=attributes, domain=domain, version=version)
        self.graph.insert_before(self.at, made)
        if domain:
            self.graph.opset_imports[domain] = 1
        return made.outputs[0]

    def constant(self, array: np.ndarray) -> ir.Value:
        made = ir.node("Constant", [], attributes={"value": ir.tensor(array)})
        self.graph.insert_before(self.at, made)
        return made.outputs[0]


def pack(unsigned: np.ndarray) -> np.ndarray:
    """uint8 values below 16, [..., n] with n even, two a byte: the earlier one in the low half."""
    return unsigned[..., 0::2] | (unsigned[..., 1::2] << 4)


def unpack(packed: np.ndarray) -> np.ndarray:
    """The reverse of `pack`: uint8 [..., 2 * n]."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def embedding_arrays(record: QuantizedTensor) -> tuple[np.ndarray, np.ndarray]:
    """A quantized table as its graph keeps it: int8 [rows, width], or uint8 [rows, width / 2], and float16 scales."""
    if record.zero_points.any():
        raise ValueError(f"{record.name}: an embedding's zero points must be zero")
    if record.bits == 8:
        return record.integers, record.scales
    if record.bits == 4:
        return pack((record.integers.astype(np.int16) + 8).astype(np.uint8)), record.scales
    raise ValueError(f"{record.name}: {record.bits} bits; an embedding has 4 or 8")


def initializers(path: Path) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A finished file, and its weights by name."""
    model = onnx.load(path)
    return model, {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def embedding_integers(model: onnx.ModelProto, arrays: dict[str, np.ndarray]) -> tuple | None:
    """The quantized table of a finished graph: name, int8 [rows, width], float32 [rows, groups]; None without one."""
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0].endswith(".integers"):
            name = node.input[0].removesuffix(".integers")
            table, scales = arrays[node.input[0]], arrays[f"{name}.scales"].astype(np.float32)
            return name, table if table.dtype == np.int8 else signed(unpack(table)), scales
    return None


def signed(unsigned: np.ndarray, bits: int = 4) -> np.ndarray:
    """uint8 with its zero in the middle -> int8."""
    return (unsigned.astype(np.int16) - (1 << (bits - 1))).astype(np.int8)


def _lower_integers(graph: ir.Graph, weight: ir.Value, record: QuantizedTensor, product: Product) -> None:
    """Replace every use of a linear layer's or an embedding's weight by one of its integers."""
    for use in list(weight.uses()):
        if use.node.op_type == "Transpose":
            for inner in list(use.node.outputs[0].uses()):
                if inner.node.op_type != "MatMul" or inner.idx != 1:
                    raise RuntimeError(f"{record.name} feeds {inner.node.op_type} through Transpose; expected MatMul")
                _replace(graph, inner.node, product(Editor(graph, inner.node), _input(inner.node, 0), record))
            graph.remove(use.node, safe=True)
        elif use.node.op_type == "Gemm" and use.idx == 1 and _is_linear(use.node):
            editor = Editor(graph, use.node)
            found = product(editor, _input(use.node, 0), record)
            if len(use.node.inputs) > 2 and use.node.inputs[2] is not None:
                found = editor.node("Add", found, _input(use.node, 2))
            _replace(graph, use.node, found)
        elif use.node.op_type == "Gather" and use.idx == 0:
            _replace(graph, use.node, _rows(Editor(graph, use.node), _input(use.node, 1), record))
        else:
            raise RuntimeError(f"{record.name} feeds {use.node.op_type}; expected a linear layer or an embedding")
    graph.initializers.pop(str(weight.name))


def _is_linear(gemm: ir.Node) -> bool:
    """Whether a Gemm is x times the transposed weight, plus the bias."""
    values = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | {a.name: a.value for a in gemm.attributes.values()}
    return values == {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}


def _rows(editor: Editor, ids: ir.Value, record: QuantizedTensor) -> ir.Value:
    """Rows of a quantized table: gathered as integers, then times their scales. ids [b, s] -> float32 [b, s, width]."""
    table, scales = embedding_arrays(record)
    rows = editor.node("Gather", editor.weight(f"{record.name}.integers", table), ids, axis=0)
    factors = editor.node("Gather", editor.weight(f"{record.name}.scales", scales), ids, axis=0)
    factors = editor.node("Cast", factors, to=ir.DataType.FLOAT)
    if record.bits == 4:
        # low = byte mod 16, high = byte div 16; side by side they are the row again.
        whole = editor.node("Cast", rows, to=ir.DataType.INT32)
        sixteen, last = editor.constant(np.array(16, np.int32)), editor.constant(np.array([-1], np.int64))
        high = editor.node("Div", whole, sixteen)
        low = editor.node("Sub", whole, editor.node("Mul", high, sixteen))
        pairs = [editor.node("Unsqueeze", half, last) for half in (low, high)]
        rows = editor.node("Sub", editor.node("Concat", *pairs, axis=-1), editor.constant(np.array(8, np.int32)))
    values = editor.node("Cast", rows, to=ir.DataType.FLOAT)
    if record.scales.shape[1] == 1 and record.bits == 8:
        return editor.node("Mul", values, factors)
    groups = [0, 0, record.scales.shape[1], record.group_size]
    grouped = editor.node("Reshape", values, editor.constant(np.array(groups, np.int64)))
    factors = editor.node("Unsqueeze", factors, editor.constant(np.array([-1], np.int64)))
    width = editor.constant(np.array([0, 0, record.integers.shape[1]], np.int64))
    return editor.node("Reshape", editor.node("Mul", grouped, factors), width)


def _lower_float16(graph: ir.Graph, weight: ir.Value) -> None:
    """Store a weight as float16, whose values it has already, and cast it back where it is used."""
    uses = list(weight.uses())
    if not uses or weight.const_value is None:
        return
    editor = Editor(graph, graph.node(0))
    half = editor.weight(f"{weight.name}{_HALF}", weight.const_value.numpy().astype(np.float16))
    opened = editor.node("Cast", half, to=ir.DataType.FLOAT)
    opened.shape, opened.type = weight.shape, weight.type
    for use in uses:
        use.node.replace_input_with(use.idx, opened)
    graph.initializers.pop(str(weight.name))


def _opens_half(node: ir.Node) -> bool:
    return node.op_type == "Cast" and str(_input(node, 0).name).endswith(_HALF)


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _replace(graph: ir.Graph, old: ir.Node, new: ir.Value) -> None:
    """Everything that read the old node's output reads the new value, graph outputs too; the old node goes."""
    before = old.outputs[0]
    new.shape, new.type = before.shape, before.type
    for use in list(before.uses()):
        use.node.replace_input_with(use.idx, new)
    name = before.name
    for index, output in enumerate(graph.outputs):
        if output is before:
            graph.outputs[index] = new
    before.name = f"{name}_replaced"
    new.name = name
    graph.remove(old, safe=True)


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
