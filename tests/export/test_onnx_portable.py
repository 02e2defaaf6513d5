"""Standard operators alone: no com.microsoft, the same integers, the same numbers as PyTorch."""

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from masters_edge.bundle import manifest as manifests
from masters_edge.common.errors import UserError
from masters_edge.export import export_student
from masters_edge.export.lowering import onnx_graphs
from masters_edge.export.targets import onnx_portable as target
from masters_edge.quantization.schemes import SCHEMES
from tests import wide
from tests.export import bundles, toys


@pytest.mark.parametrize("scheme", wide.cells(target.SCHEMES, ["int4"]))
def test_every_scheme_computes_and_decodes(scheme: str, tmp_path: Path) -> None:
    toy = toys.Toy(scheme)
    ir.save(onnx_graphs.lower(toy.part, toy.weights, target.OPSET, target._product), tmp_path / "toy.onnx")
    toys.assert_same_integers(toy.weights, target.integers(tmp_path, {"toy": "toy.onnx"}))
    model = onnx.load(tmp_path / "toy.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain for opset in model.opset_import} == {""}
    quantized = [i for i in model.graph.initializer if i.name.endswith(".integers") and ".table." not in i.name]
    kind = {4: onnx.TensorProto.INT4, 8: onnx.TensorProto.INT8, None: None}[SCHEMES[scheme].bits]
    assert {i.data_type for i in quantized} == ({kind} if kind else set())
    # ONNX Runtime makes its own MatMulNBits of these; at 1 it multiplies in float32.
    toys.assert_computes(toy, tmp_path / "toy.onnx", session__qdq_matmulnbits_accuracy_level="1")


@pytest.mark.wide
def test_a_whole_student() -> None:
    folder = bundles.exported("smolvlm", "smallest", target="onnx_portable")
    manifest = manifests.check(folder)
    exact = manifest.parity.exact
    assert exact.equal_answers == 1 and all(part.max_relative_error < 1e-5 for part in exact.parts.values())
    for file in manifest.graphs.values():
        assert {node.domain for node in onnx.load(folder / file).graph.node} == {""}


def test_activations_can_not_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="int8-a8"):
        export_student(
            bundles.student("smolvlm"),
            target="onnx_portable",
            scheme="int8-a8",
            out=tmp_path / "out",
            samples=bundles.samples(1),
        )
