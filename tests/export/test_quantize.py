"""The integer record holds torchao's own integers, and its file reads back the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn
from torchao.quantization import IntxWeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerGroup

from masters_edge.errors import UserError
from masters_edge.export import graphs
from masters_edge.export.quantize import int4, record
from masters_edge.export.student import load
from tests.export import bundles


def random_record(zeros: bool = False) -> record.QuantizedTensor:
    rng = np.random.default_rng(0)
    return record.QuantizedTensor(
        "layer.weight",
        integers=rng.integers(-8, 8, (6, 96)).astype(np.int8),
        scales=rng.random((6, 3)).astype(np.float32),
        zero_points=(rng.integers(-8, 8, (6, 3)) if zeros else np.zeros((6, 3))).astype(np.int8),
        bits=4,
        group_size=32,
    )


def test_round_trip(tmp_path: Path) -> None:
    first = random_record(zeros=True)
    record.save(tmp_path / "q.safetensors", [first])
    [second] = record.load(tmp_path / "q.safetensors")
    for field in ("integers", "scales", "zero_points"):
        ours, theirs = getattr(first, field), getattr(second, field)
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    assert (second.name, second.bits, second.group_size, second.axis) == ("layer.weight", 4, 32, 1)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "q.safetensors"
    record.save(path, [random_record()])
    save_file(load_file(path), path, {"schema_version": "2", "tensors": "{}"})
    with pytest.raises(UserError, match="schema version 2"):
        record.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="can't be read"):
        record.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"integers": np.full((6, 96), 8, np.int8)},
        {"scales": np.ones((6, 2), np.float32)},
        {"zero_points": np.zeros((6, 2), np.int8)},
        {"group_size": 40},
        {"axis": 0},
    ],
)
def test_records_that_can_not_be(change: dict) -> None:
    with pytest.raises(ValueError):
        record.QuantizedTensor(**{**vars(random_record()), **change})


def test_dequantize_by_hand() -> None:
    found = random_record(zeros=True)
    expected = [
        [(int(found.integers[i, j]) - int(found.zero_points[i, j // 32])) * found.scales[i, j // 32] for j in range(96)]
        for i in range(6)
    ]
    assert np.allclose(found.dequantize(), expected, rtol=1e-6)


def test_integers_are_torchaos_bit_for_bit() -> None:
    student = load(bundles.student("smolvlm"))
    quantized = int4.quantize(student.model, graphs.linears(student))
    theirs = load(bundles.student("smolvlm")).model
    theirs.lm_head.weight = nn.Parameter(theirs.lm_head.weight.detach().clone())
    quantize_(
        theirs,
        IntxWeightOnlyConfig(torch.int4, PerGroup(32)),
        filter_fn=lambda module, name: isinstance(module, nn.Linear) and module.in_features % 32 == 0,
    )
    modules = dict(theirs.named_modules())
    expected = {name for name, module in modules.items() if isinstance(module, nn.Linear)}
    names = {tensor.name.removesuffix(".weight") for tensor in quantized.tensors}
    assert expected - names == {f"model.vision_model.encoder.layers.{layer}.mlp.fc2" for layer in (0, 1)}
    ours = dict(student.model.named_modules())
    for tensor in quantized.tensors:
        name = tensor.name.removesuffix(".weight")
        weight = modules[name].weight
        assert np.array_equal(tensor.integers, weight.qdata.numpy())
        assert np.array_equal(tensor.scales, weight.scale.numpy())
        assert not tensor.zero_points.any() and not weight.zero_point.any()
        assert torch.equal(ours[name].weight, weight.dequantize())


def test_the_embedding_keeps_its_float32_weights() -> None:
    student = load(bundles.student("smolvlm"))
    before = student.model.get_input_embeddings().weight.clone()
    int4.quantize(student.model, graphs.linears(student))
    assert torch.equal(student.model.get_input_embeddings().weight, before)
    assert not torch.equal(student.model.lm_head.weight, before)
