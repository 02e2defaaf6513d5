"""From an exported program to an OpenVINO model: names carried through, weights compressed, KV cache as state.

In: a `Part` and the quantized weights. Out: an `openvino.Model` whose constants for quantized weights hold the
record's integers (named after the parameter) and float16 scales (`<parameter>.scales`), and nothing rounded again.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch.export.decomp_utils import CustomDecompTable

from masters_edge.common.quiet import import_openvino
from masters_edge.export.graphs import Part
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.quantize.weights import Weights
from masters_edge.runtime.backends._openvino_graphs import sum_in_float32

openvino = import_openvino()
ops = import_openvino("openvino.opset15")

SCALES = ".scales"
_PAST, _PRESENT = "past_key_values.", "present."


def convert(part: Part) -> tuple[Any, dict[str, str]]:
    """The part as an OpenVINO model with its inputs and outputs named and shaped, and: tensor name -> parameter name.

    Constants share their memory with the student's parameters.
    """
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
    from openvino.frontend.pytorch.torchdynamo.export_decompositions import ops_to_not_decompose

    # As `from_exported_program` does, which logs a traceback for each operator that torch doesn't decompose anyway.
    table = CustomDecompTable()
    for operator in ops_to_not_decompose():
        if operator in table:
            table.pop(operator)
    decoder = TorchFXPythonDecoder(part.capture().run_decompositions(table).module(), dynamic_shapes=True)
    names = {
        f"{node.name}:0": node.target for node in decoder.pt_module.graph.nodes if node.op == "get_attr" and node.users
    }
    model = openvino.convert_model(decoder)
    for ends, wanted in ((model.inputs, part.inputs), (model.outputs, part.outputs)):
        if len(ends) != len(wanted):
            raise RuntimeError(f"{part.name}: OpenVINO has {len(ends)} inputs or outputs where {wanted} were expected")
        for end, name in zip(ends, wanted):
            end.get_tensor().set_names({name})
            end.get_node().set_friendly_name(name)
    shapes = {name: [d if isinstance(d, int) else -1 for d in part.dimensions[name]] for name in part.inputs}
    model.reshape({name: openvino.PartialShape(shape) for name, shape in shapes.items()})
    sum_in_float32(model)
    return model, names


def lower(model: Any, names: Mapping[str, str], weights: Weights) -> None:
    """Replace constants by the records of the same name, and by float16 where the parameter is stored so.

    `names`: tensor name -> the parameter's name in the student. A float16 parameter that OpenVINO computed with
    already, like a table of positions, has no constant any more and what became of it stays float32. Raises
    RuntimeError for a record without a constant.
    """
    found = set()
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant":
            for name in {names[name] for name in node.output(0).get_names() if name in names}:
                found.add(name)
                if name in weights.tensors:
                    node.output(0).replace(_compressed(weights.tensors[name]).output(0))
                elif name in weights.float16:
                    node.output(0).replace(_float16(name, node).output(0))
    missing = sorted((set(names.values()) & set(weights.tensors)) - found)
    if missing:
        raise RuntimeError(f"{missing[0]} is in the exported program, but not in the OpenVINO model")
    model.validate_nodes_and_infer_types()


def decode(model: Any) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The reverse of `lower`: parameter name, int8 [out, in], float32 scales [out, groups] of each quantized weight."""
    constants = {node.get_friendly_name(): node for node in model.get_ops() if node.get_type_name() == "Constant"}
    for name, scales in constants.items():
        if name.endswith(SCALES):
            weight = constants[name.removesuffix(SCALES)]
            out = weight.get_output_shape(0)[0]
            values = weight.data
            if weight.get_element_type() == openvino.Type.i4:
                values = _unpack(values)
            yield (
                weight.get_friendly_name(),
                values.reshape(out, -1).astype(np.int8),
                scales.data.reshape(out, -1).astype(np.float32),
            )


def make_stateful(model: Any) -> None:
    """Turn past and present into state that starts empty, reordered by a new input `beam_idx` int32 [batch].

    As optimum-intel does. Batch and sequence are first taken from `inputs_embeds` alone: what asked the shape of the
    past, the mask or the positions is routed there, because openvino-genai's paged attention takes those inputs away.
    """
    _route_dimensions(model)
    pairs = {name: name.replace(_PAST, _PRESENT) for name in _names(model.inputs) if name.startswith(_PAST)}
    beam = ops.parameter([-1], np.int32, name="beam_idx")
    beam.output(0).get_tensor().set_names({"beam_idx"})
    model.add_parameters([beam])
    zero = ops.constant(0, dtype=np.int64)
    for name in pairs:
        past = model.input(name)
        readers = list(past.get_target_inputs())
        chosen = ops.gather(past, beam, zero)
        for reader in readers:
            reader.replace_source_output(chosen.output(0))
    model.validate_nodes_and_infer_types()
    stateful = import_openvino("openvino._offline_transformations")
    stateful.apply_make_stateful_transformation(model, pairs)
    batch = ops.gather(_shape_of_embeds(model), ops.constant([0], dtype=np.int64), zero)
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            _, heads, _, size = node.get_output_partial_shape(0)
            fixed = [ops.constant([length], dtype=np.int64) for length in (heads.get_length(), 0, size.get_length())]
            empty = ops.broadcast(ops.constant(0.0, dtype=np.float32), ops.concat([batch, *fixed], 0))
            node.set_arguments([empty])
    model.validate_nodes_and_infer_types()


def _compressed(record: QuantizedTensor) -> Any:
    """Constant -> Convert -> Multiply (-> Reshape) -> Convert: OpenVINO multiplies by it without unpacking it."""
    if record.zero_points.any():
        raise RuntimeError(f"{record.name} has zero points; only symmetric integers are lowered to OpenVINO")
    out, inside = record.integers.shape
    groups = record.scales.shape[1]
    shape = [out, inside] if groups == 1 else [out, groups, record.group_size]
    if record.bits == 4:
        # Memory of OpenVINO's own: it would go on reading that of a numpy array which is gone.
        tensor = openvino.Tensor(openvino.Type.i4, openvino.Shape(shape))
        tensor.data.view(np.uint8)[:] = _pack(record.integers)
        weight = ops.constant(tensor)
    else:
        weight = ops.constant(record.integers.reshape(shape))
    scales = ops.constant(record.scales.reshape([*shape[:-1], 1]))
    weight.set_friendly_name(record.name)
    scales.set_friendly_name(record.name + SCALES)
    product = ops.multiply(ops.convert(weight, "f16"), scales)
    if groups > 1:
        product = ops.reshape(product, ops.constant(np.array([out, inside], np.int64)), False)
    return ops.convert(product, "f32")


def _float16(name: str, constant: Any) -> Any:
    """The constant as float16, converted to float32 where it is read."""
    half = ops.constant(constant.data.astype(np.float16))
    half.set_friendly_name(name)
    return ops.convert(half, "f32")


def _pack(integers: np.ndarray) -> np.ndarray:
    """int8 [out, in] of 4 bits -> uint8 [out * in / 2], two's complement, the earlier value in the low half."""
    nibbles = integers.reshape(-1).view(np.uint8) & 15
    return nibbles[0::2] | (nibbles[1::2] << 4)


def _unpack(packed: np.ndarray) -> np.ndarray:
    """The reverse of `_pack`: int8 [values]."""
    nibbles = np.stack([packed.view(np.uint8) & 15, packed.view(np.uint8) >> 4], axis=-1).reshape(-1)
    return ((nibbles ^ 8).astype(np.int16) - 8).astype(np.int8)


def _route_dimensions(model: Any) -> None:
    """Let every batch and sequence length be read from `inputs_embeds` [batch, tokens, width]."""
    embeds = _shape_of_embeds(model)
    axis = ops.constant(0, dtype=np.int64)
    for node in model.get_ops():
        source = node.input_value(0).get_node() if node.get_type_name() == "ShapeOf" else None
        if source is None or source.get_type_name() != "Parameter":
            continue
        places = _batch_and_sequence(source)
        for reader in [target.get_node() for target in node.output(0).get_target_inputs()]:
            if reader.get_type_name() != "Gather" or reader.input_value(1).get_node().get_type_name() != "Constant":
                continue
            index = reader.input_value(1).get_node().data
            if index.size == 1 and int(index.reshape(-1)[0]) in places:
                place = np.full(index.shape, places[int(index.reshape(-1)[0])], np.int64)
                length = ops.gather(embeds, ops.constant(place), axis)
                kind = reader.get_output_element_type(0)
                reader.output(0).replace(ops.convert(length, kind.to_string()).output(0))
    model.validate_nodes_and_infer_types()


def _batch_and_sequence(parameter: Any) -> dict[int, int]:
    """Which of an input's dimensions are batch and sequence: its dimension -> that of `inputs_embeds`."""
    name = parameter.output(0).get_any_name()
    if name == "position_ids":
        rank = parameter.get_output_partial_shape(0).rank.get_length()
        return {rank - 2: 0, rank - 1: 1}
    if name == "visual_pos_masks":
        return {0: 0, 1: 1}
    return {0: 0} if name == "attention_mask" or name.startswith(_PAST) else {}


def _shape_of_embeds(model: Any) -> Any:
    return ops.shape_of(model.input("inputs_embeds"), output_type="i64")


def _names(ends: Any) -> list[str]:
    return [end.get_any_name() for end in ends]
