"""From static programs to Core ML packages: each function an ML program, a part's functions joined in one package.

Torchao's integers stay what they are, as `constexpr_blockwise_shift_scale`, and the operator is named after the
student's parameter, so that whoever reads the package knows whose they are.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from masters_edge.export.mil.library import coremltools, without_bars
from masters_edge.export.mil.program import read
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.static_graphs.parts import StaticPart

_TABLES = ("b_cosines", "b_sines")  # the decoder's and the vision encoders' buffers, as torch.export calls them


def write_part(part: StaticPart, records: Mapping[str, QuantizedTensor], half: bool, package: Path) -> None:
    """Convert each function to float16 (`half`) or float32, and join them where there is more than one."""
    with without_bars():
        if list(part.functions) == ["main"]:
            _convert(part, "main", records, half).save(str(package))
            return
        from coremltools.models.utils import MultiFunctionDescriptor, save_multifunction

        with tempfile.TemporaryDirectory(dir=package.parent) as folder:
            functions = MultiFunctionDescriptor()
            for name in part.functions:
                single = str(Path(folder) / f"{name}.mlpackage")
                _convert(part, name, records, half).save(single)
                functions.add_function(single, "main", name)
            functions.default_function_name = "decode"
            save_multifunction(functions, str(package))


def read_integers(package: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Every quantized weight of a package: parameter name, int8 [out, in], float32 scales [out, groups]."""
    function = next(iter(read(package).functions.values()))
    for operator in function.operations:
        if operator.op_type == "constexpr_blockwise_shift_scale":
            data, scale = (np.array(operator.inputs[name].val) for name in ("data", "scale"))
            yield _decode_name(operator.outputs[0].name), data.astype(np.int8), scale.astype(np.float32)


def _convert(part: StaticPart, function: str, records: Mapping[str, QuantizedTensor], half: bool) -> Any:
    """One function as a Core ML model."""
    program = part.capture(function, records).run_decompositions({})
    _name_weights(part, program)
    dtype = np.float16 if half else np.float32
    inputs = [
        coremltools.TensorType(name, tuple(example.shape), dtype if example.is_floating_point() else np.int32)
        for name, example in part.functions[function].items()
    ]
    half_where = coremltools.transform.FP16ComputePrecision(_fits_float16)
    return coremltools.convert(
        program,
        inputs=inputs,
        outputs=[coremltools.TensorType(part.output, dtype=dtype)],
        minimum_deployment_target=coremltools.target.iOS18,
        compute_precision=half_where if half else coremltools.precision.FLOAT32,
        skip_model_load=True,
    )


def _fits_float16(operator: Any) -> bool:
    """All but RMSNorm's mean of squares, and the tables of positions.

    Activations above 256 are usual, and their squares pass float16's 65504; what is looked up in a table is rounded
    afterwards, and so the same as what PyTorch rounds.
    """
    first = operator.inputs.get("x")
    if operator.op_type == "gather":
        return not first.name.startswith(_TABLES)
    mean = operator.op_type == "add" and first.op is not None and first.op.op_type == "reduce_mean"
    return not mean and operator.op_type not in ("pow", "reduce_mean", "rsqrt")


def _name_weights(part: StaticPart, program: Any) -> None:
    """Name each dequantizing operator after the student's parameter."""
    buffers = program.graph_signature.inputs_to_buffers
    for node in program.graph.nodes:
        if node.target is torch.ops.torchao.dequantize_affine.default:
            layer = buffers[node.args[0].name].removesuffix(".integers")
            node.name = _encode_name(f"{part.student_name(layer)}.weight")


def _encode_name(name: str) -> str:
    """A parameter's name as MIL allows it: no dots."""
    if "__" in name:
        raise RuntimeError(f"{name} has a double underscore, which stands for a dot here")
    return name.replace(".", "__")


def _decode_name(name: str) -> str:
    return name.removesuffix("_cast_fp16").replace("__", ".")
