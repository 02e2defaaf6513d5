"""Core ML packages, read back from disk: torchao's integers, shared weights, float16 where safe, right answers."""

import functools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchao.quantization import IntxWeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerAxis, PerGroup

from masters_edge.bundle import manifest as manifests
from masters_edge.common.errors import UserError
from masters_edge.export.student import load
from masters_edge.runtime.opening import open_backend
from tests import wide
from tests.export import bundles

pytest.importorskip("coremltools")

from masters_edge.export.mil.operators import OPERATORS, Cast
from masters_edge.export.mil.program import Program, read
from masters_edge.export.targets import coreml as target

CONFIGS = {
    "int4": (IntxWeightOnlyConfig(torch.int4, PerGroup(32), scale_dtype=torch.float16), 32),
    "int8": (IntxWeightOnlyConfig(torch.int8, PerAxis(0), scale_dtype=torch.float16), 1),
}


@functools.lru_cache
def exported(family: str, scheme: str) -> Path:
    return bundles.exported(family, scheme, family == "smolvlm", target="coreml")


@pytest.mark.parametrize(("family", "scheme"), wide.cells([("smolvlm", "int4"), ("qwen3_vl", "int8")], []))
def test_integers_in_the_packages_are_torchaos_bit_for_bit(family: str, scheme: str) -> None:
    model = load(bundles.student(family, family == "smolvlm")).model
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    config, group = CONFIGS[scheme]
    quantize_(model, config, filter_fn=lambda m, name: isinstance(m, nn.Linear) and m.in_features % group == 0)
    expected = {f"{n}.weight": m.weight for n, m in model.named_modules() if hasattr(getattr(m, "weight", 0), "qdata")}
    folder = exported(family, scheme)
    found = {name: rest for name, *rest in target.integers(folder, manifests.read(folder).graphs)}
    assert set(found) == set(expected)
    for name, (integers, scales) in found.items():
        assert integers.dtype == np.int8 and np.array_equal(integers, expected[name].qdata.numpy())
        assert np.array_equal(scales, expected[name].scale.float().numpy().reshape(scales.shape))


def test_the_gate_was_passed_and_the_manifest_says_what_was_not_run() -> None:
    manifest = manifests.check(exported("smolvlm", "int4"))
    exact = manifest.parity.exact
    assert max(part.max_relative_error for part in exact.parts.values()) < 1e-5
    assert exact.equal_answers == 1
    assert any("Apple's Core ML was not run" in note for note in manifest.notes)
    assert any("float16" in note for note in manifest.quantization.notes)


def test_prefill_and_decode_share_weights_and_state() -> None:
    package = exported("smolvlm", "int4") / "decoder.mlpackage"
    functions = read(package).functions
    assert sorted(functions) == ["decode", "prefill"]
    program = Program(package)
    assert program.shapes("prefill")["inputs_embeds"] == (1, 64, 64)
    assert program.shapes("decode")["attention_mask"] == (1, 1, 1, 512)
    assert sorted(program.new_state("decode")) == ["keys_0", "keys_1", "values_0", "values_1"]
    weights = sum(path.stat().st_size for path in package.rglob("weight.bin"))
    one = sum(
        operator.outputs[0].val.size * (0.5 if "data" in operator.name else 2)
        for operator in functions["decode"].operations
        if operator.op_type == "const" and getattr(operator.outputs[0].val, "size", 1) > 100
    )
    assert weights < 1.5 * one


def test_float16_but_for_means_of_squares_and_tables_of_positions() -> None:
    folder = exported("smolvlm", "int4")
    kinds: dict[str, set[str]] = {}
    for operator in read(folder / "decoder.mlpackage").functions["decode"].operations:
        if operator.op_type in ("pow", "linear", "gather") and not operator.name.startswith("select"):
            kinds.setdefault(operator.op_type, set()).add(operator.outputs[0].dtype.__name__)
    assert kinds["pow"] == kinds["gather"] == {"fp32"} and kinds["linear"] == {"fp16"}
    program = Program(folder / "decoder.mlpackage", exact=False)
    shapes = program.shapes("decode")
    inputs = {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if "position" not in name}
    inputs |= {name: np.zeros(shape, np.int32) for name, shape in shapes.items() if "position" in name}
    inputs["inputs_embeds"] += 3000  # its square is past float16's largest number
    assert np.isfinite(program.run("decode", inputs, program.new_state("decode"))["logits"]).all()


def test_gelu_is_the_students_own() -> None:
    folder = exported("smolvlm", "int4")
    gelus = [o for o in read(folder / "vision_encoder.mlpackage").functions["main"].operations if o.op_type == "gelu"]
    assert len(gelus) == 2 and {gelu.inputs["mode"].val for gelu in gelus} == {"TANH_APPROXIMATION"}


def test_the_interpreter_looks_at_weights_and_state(tmp_path: Path) -> None:
    program = Program(exported("smolvlm", "int4") / "decoder.mlpackage")
    shapes = program.shapes("decode")
    feed = {name: np.zeros(shape, np.float32 if "position" not in name else np.int32) for name, shape in shapes.items()}
    feed["inputs_embeds"][0, 0, :7] = 1
    state = program.new_state("decode")
    first = program.run("decode", feed, state)["logits"]
    assert all(values[:, :, 0].any() and not values[:, :, 1:].any() for values in state.values())
    assert np.array_equal(program.run("decode", feed, program.new_state("decode"))["logits"], first)
    feed["cache_position"][0] = 1
    assert not np.array_equal(program.run("decode", feed, state)["logits"], first)
    with pytest.raises(ValueError, match="the program takes"):
        program.run("decode", {**feed, "inputs_embeds": feed["inputs_embeds"][..., :-1]}, state)


def test_operators_by_hand() -> None:
    exact, half = Cast(True), Cast(False)
    blocks = OPERATORS["constexpr_blockwise_shift_scale"]
    data, scale = np.array([[1, 2, 3, -4]], np.int8), np.array([[0.5, 2]], np.float16)
    assert blocks(exact, data=data, scale=scale).tolist() == [[0.5, 1, 6, -8]]
    assert blocks(exact, data=data, scale=scale, offset=np.array([[1, -1]], np.int8)).tolist() == [[0, 0.5, 8, -6]]
    assert blocks(half, data=data, scale=scale).dtype == torch.float16
    x = torch.arange(12.0).reshape(3, 4)
    cut = dict(begin=[1, 0], end=[3, 3], stride=[1, 2], begin_mask=[False, True], end_mask=[True, False])
    assert OPERATORS["slice_by_index"](exact, x=x, **cut, squeeze_mask=None).tolist() == [[4, 6], [8, 10]]
    update = OPERATORS["slice_update"](exact, x=x, update=torch.ones(1, 4), begin=[2, 0], end=[3, 4])
    assert update[2].tolist() == [1] * 4 and x[2, 0] == 8
    assert OPERATORS["floor_div"](exact, x=torch.tensor([-7]), y=torch.tensor(2)).item() == -4
    assert OPERATORS["pad"](exact, x=x, pad=[0, 0, 0, 2]).shape == (3, 6)
    assert OPERATORS["gather"](exact, x=x, indices=torch.tensor([[2], [0]]), axis=0).shape == (2, 1, 4)
    assert exact.to(x, "fp16").dtype == torch.float32 and half.to(x, "fp16").dtype == torch.float16


@pytest.mark.skipif(sys.platform == "darwin", reason="there it runs")
def test_elsewhere_than_on_a_mac_one_sentence_says_so() -> None:
    folder = exported("smolvlm", "int4")
    with pytest.raises(UserError, match="runs on macOS 15 and iOS 18 only"):
        open_backend("auto", "coreml", folder, manifests.read(folder).graphs, 1)
