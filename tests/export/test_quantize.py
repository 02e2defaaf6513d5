"""The integer record holds torchao's own integers, and its file reads back the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_

from masters_edge.common.errors import UserError
from masters_edge.export.quantize import record, rtn
from masters_edge.quantization.schemes import SCHEMES

INTEGERS = [name for name, scheme in SCHEMES.items() if scheme.bits]


def random_record(zeros: bool = False) -> record.QuantizedTensor:
    rng = np.random.default_rng(0)
    return record.QuantizedTensor(
        "layer.weight",
        integers=rng.integers(-8, 8, (6, 96)).astype(np.int8),
        scales=rng.random((6, 3)).astype(np.float16),
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
    save_file(load_file(path), path, {"schema_version": "1", "tensors": "{}"})
    with pytest.raises(UserError, match="schema version 1"):
        record.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="can't be read"):
        record.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"integers": np.full((6, 96), 8, np.int8)},
        {"integers": np.zeros((6, 96), np.int16)},
        {"scales": np.ones((6, 2), np.float16)},
        {"scales": np.ones((6, 3), np.float32)},
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
        [
            (int(found.integers[i, j]) - int(found.zero_points[i, j // 32])) * float(found.scales[i, j // 32])
            for j in range(96)
        ]
        for i in range(6)
    ]
    assert found.dequantize().dtype == np.float32
    assert np.array_equal(found.dequantize(), np.array(expected, np.float32))


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("kind", [nn.Linear, nn.Embedding])
def test_integers_and_their_meaning_are_torchaos_bit_for_bit(name: str, kind: type) -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 256) * torch.logspace(-2, 1, 40)[:, None]
    layer = nn.Linear(256, 40, bias=False) if kind is nn.Linear else nn.Embedding(40, 256)
    layer.weight = nn.Parameter(weight.clone())
    scheme = SCHEMES[name]
    found = rtn.round_to_nearest("w", layer.weight, scheme)
    quantize_(layer, scheme.torchao_config(), filter_fn=lambda module, _: isinstance(module, kind))
    assert np.array_equal(found.integers, layer.weight.qdata.numpy())
    assert layer.weight.scale.dtype == torch.float16 and np.array_equal(found.scales, layer.weight.scale.numpy())
    assert not found.zero_points.any() and not layer.weight.zero_point.any()
    assert torch.equal(torch.from_numpy(found.dequantize()), layer.weight.dequantize())


@pytest.mark.parametrize("name", ["int8-a8", "int4-a8"])
def test_dynamic_activations_have_the_same_weight_integers(name: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 16)
    scheme = SCHEMES[name]
    found = rtn.round_to_nearest("w", layer.weight, scheme)
    config = scheme.torchao_config()
    quantize_(
        layer,
        Int8DynamicActivationIntxWeightConfig(
            weight_dtype=config.weight_dtype, weight_granularity=config.granularity, weight_scale_dtype=torch.float16
        ),
    )
    assert np.array_equal(found.integers, layer.weight.qdata.numpy())
    assert np.array_equal(found.scales, layer.weight.scale.numpy())


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_tiny_weights_stay_tiny(name: str) -> None:
    """torchao would send them to the ends of the range: 1 / scale is infinite in float16."""
    torch.manual_seed(0)
    weight = torch.randn(4, 64) * torch.tensor([1.0, 1e-5, 1e-9, 0.0])[:, None]
    found = rtn.round_to_nearest("w", weight, SCHEMES[name])
    assert np.abs(found.dequantize() - weight.numpy())[1:].max() <= 2**-17  # half a step of the smallest scale
    assert not found.integers[2:].any() and (found.scales > 0).all()
