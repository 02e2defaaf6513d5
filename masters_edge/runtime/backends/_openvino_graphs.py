"""What graphs are changed to when OpenVINO loads them: a KV cache that stays inside, logits only where asked for.

In: an `openvino.Model` as it was read, changed in place. An ONNX decoder takes `past_key_values.*` and gives
`present.*`; OpenVINO's own files come with state.
"""

from typing import Any

import numpy as np

from masters_edge.common.quiet import import_openvino

# An input of changed decoders, int64 [1]: logits from this token on, counted from the end where it is negative.
FIRST = "first_logits"
_PAST, _PRESENT = "past_key_values.", "present."
_BEHIND_HEAD = ("Convert", "Add", "Multiply")


def make_stateful(model: Any) -> None:
    """Turn past and present of an ONNX decoder into state that starts empty, for a batch of one.

    Adds `beam_idx` int32 [1], as OpenVINO's own files have it: its kernels look for it beside a cache. A model without
    a past stays as it is.
    """
    shapes = {end.get_any_name(): end.get_partial_shape() for end in model.inputs}
    pasts = [name for name in shapes if name.startswith(_PAST)]
    if not pasts:
        return
    for name, shape in shapes.items():
        if shape.rank.get_length() > 1:
            shape[1 if name == "position_ids" and shape.rank.get_length() == 3 else 0] = 1
    model.reshape(shapes)  # where a state has no value yet, every length that isn't fixed is 0
    ops = import_openvino("openvino.opset15")
    beam = ops.parameter([1], np.int32, name="beam_idx")
    beam.output(0).get_tensor().set_names({"beam_idx"})
    model.add_parameters([beam])
    for name in pasts:
        past = model.input(name)
        readers = list(past.get_target_inputs())
        chosen = ops.gather(past, beam, ops.constant(0, dtype=np.int64))
        for reader in readers:
            reader.replace_source_output(chosen.output(0))
    model.validate_nodes_and_infer_types()
    transformations = import_openvino("openvino._offline_transformations")
    pairs = {name: name.replace(_PAST, _PRESENT) for name in pasts}
    transformations.apply_make_stateful_transformation(model, pairs)


def sum_in_float32(model: Any) -> None:
    """Take sums of integers (counts, far below 2 ** 24) as float32.

    OpenVINO 2026.4 fuses an int32 sum with the product after it on the CPU, and gets some elements wrong. For
    OpenVINO's own files `export/` does this when it writes them.
    """
    ops = import_openvino("openvino.opset15")
    for node in model.get_ops():
        if node.get_type_name() == "ReduceSum" and node.get_output_element_type(0).is_integral():
            readers = list(node.output(0).get_target_inputs())
            kind = node.get_output_element_type(0).to_string()
            node.input(0).replace_source_output(ops.convert(node.input_value(0), "f32").output(0))
            node.validate_and_infer_types()
            whole = ops.convert(node, kind).output(0)
            for reader in readers:
                reader.replace_source_output(whole)
    model.validate_nodes_and_infer_types()


def add_first_logits(model: Any, axis: int) -> bool:
    """Give a decoder the input `FIRST`, so that its head reads the last token of a prompt alone.

    `axis` of the tokens in hidden states of three dimensions. False, and nothing changed, where the head isn't a
    product of such states with a weight.
    """
    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() in _BEHIND_HEAD:
        node = node.input_value(0).get_node()
    if node.get_type_name() != "MatMul" or node.input_value(0).get_partial_shape().rank.get_length() != 3:
        return False
    ops = import_openvino("openvino.opset15")
    first = ops.parameter([1], np.int64, name=FIRST)
    first.output(0).get_tensor().set_names({FIRST})
    model.add_parameters([first])
    end, step, where = (ops.constant(np.array([value], np.int64)) for value in (np.iinfo(np.int64).max, 1, axis))
    hidden = ops.slice(node.input_value(0), first, end, step, where)
    node.input(0).replace_source_output(hidden.output(0))
    model.validate_nodes_and_infer_types()
    return True
