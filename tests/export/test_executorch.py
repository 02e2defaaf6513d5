"""ExecuTorch programs hold torchao's integers, share them and the KV cache between methods, and answer as PyTorch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchao.quantization import IntxWeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerAxis

from masters_edge.bundle import manifest as manifests
from masters_edge.common.errors import UserError
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.static_graphs.xnnpack import layer
from masters_edge.export.student import load
from masters_edge.runtime import Student
from masters_edge.runtime.opening import open_backend
from tests import wide
from tests.advice import follows
from tests.export import bundles

pytest.importorskip("executorch")

from masters_edge.export.targets import executorch as target


def exported(scheme: str = "fp32") -> Path:
    """XNNPACK takes two minutes to lower integers: what asks for them is slow."""
    return bundles.exported("internvl3", scheme, target="executorch")


def record(bits: int, group: int, columns: int = 64) -> QuantizedTensor:
    rng = np.random.default_rng(0)
    low = 1 << (bits - 1)
    integers = rng.integers(-low, low, (6, columns)).astype(np.int8)
    scales = rng.random((6, columns // group)).astype(np.float16)
    return QuantizedTensor("w", integers, scales, np.zeros(scales.shape, np.int8), bits, group)


@pytest.mark.slow
def test_integers_in_the_files_are_torchaos_bit_for_bit() -> None:
    model = load(bundles.student("internvl3")).model
    config = IntxWeightOnlyConfig(torch.int8, PerAxis(0), scale_dtype=torch.float16)
    quantize_(model, config, filter_fn=lambda module, name: isinstance(module, nn.Linear))
    expected = {f"{n}.weight": m.weight for n, m in model.named_modules() if hasattr(getattr(m, "weight", 0), "qdata")}
    found = {
        name: rest for name, *rest in target.integers(exported("int8-a8"), manifests.read(exported("int8-a8")).graphs)
    }
    assert set(found) == set(expected)
    for name, (integers, scales) in found.items():
        assert np.array_equal(integers, expected[name].qdata.numpy())
        assert np.array_equal(scales, expected[name].scale.float().numpy().reshape(scales.shape))


def test_packed_by_hand() -> None:
    integers = np.tile(np.arange(-8, 8, dtype=np.int8), (2, 1))
    packed = np.tile(np.array([0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE], np.uint8), (2, 1))
    assert np.array_equal(target._unpack(packed.tobytes(), [2, 16], 4), integers)
    scales = torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16)
    assert target._floats(scales.view(torch.int16).numpy().tobytes(), "bfloat16", 1).tolist() == [[1.5, -2.0]]


@pytest.mark.slow
def test_methods_share_weights() -> None:
    folder = exported("int8-a8")
    manifest = manifests.check(folder)
    assert manifest.parity.exact.parts["decoder"].max_relative_error < 1e-5
    places = json.loads((folder / target.WEIGHTS).read_text())
    weights = sum(np.prod(place["shape"]) for place in places.values() if place["graph"] == "decoder")
    assert (folder / "decoder.pte").stat().st_size < 1.5 * weights + 150_000


@pytest.mark.wide
def test_an_answer_after_another_is_the_same(tmp_path: Path) -> None:
    student = Student.load(exported())
    (image, question), (other, _) = bundles.samples(2)
    first = student.answer(image, question, max_new_tokens=6).token_ids
    student.answer(other, question, max_new_tokens=6)
    assert student.answer(image, question, max_new_tokens=6).token_ids == first


@pytest.mark.wide
def test_strides_are_not_overlooked() -> None:
    backend = open_backend("executorch", "executorch", exported(), manifests.read(exported()).graphs, 1)
    pixels = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    plain = backend.vision({"pixel_values": np.ascontiguousarray(pixels)})
    assert np.array_equal(backend.vision({"pixel_values": pixels}), plain)


@pytest.mark.wide
@follows("ExecuTorch can't load {} ({}); copy or export the bundle again")
def test_too_long_a_prompt_and_a_broken_file_in_one_sentence(tmp_path: Path) -> None:
    graphs = manifests.read(exported()).graphs
    backend = open_backend("executorch", "executorch", exported(), graphs, 1)
    with pytest.raises(UserError, match="longer than the bundle's 512 tokens"):
        backend.forward(np.zeros((1, 513, 64), np.float32), np.arange(513)[None])
    for name in graphs.values():
        (tmp_path / name).write_bytes(b"no program")
    with pytest.raises(UserError, match="can't load"):
        open_backend("executorch", "executorch", tmp_path, graphs, 1)
    for name in graphs.values():
        (tmp_path / name).write_bytes((exported() / name).read_bytes())
    assert open_backend("executorch", "executorch", tmp_path, graphs, 1)


LAYERS = [(8, 64, 1e-6), (4, 32, 5e-3), (4, 64, 1e-6)]


@pytest.mark.parametrize(("bits", "group", "tolerance"), wide.cells(LAYERS, LAYERS[:1]))
def test_a_layer_alone(tmp_path: Path, bits: int, group: int, tolerance: float) -> None:
    """Against the same arithmetic in torchao; scales of several groups are bfloat16 in XNNPACK."""
    from executorch.runtime import Runtime

    from masters_edge.export.static_graphs.parts import StaticPart

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(64, 6), nn.GELU(approximate="tanh"))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    model = One().eval()
    part = StaticPart("one", model, {"main": {"x": torch.zeros(1, 3, 64)}}, "y", model)
    weights = {"inner.0.weight": record(bits, group)}
    target._write_part(part, weights, layer, tmp_path / "one.pte")
    x = torch.randn(1, 3, 64)
    program = Runtime.get().load_program(tmp_path / "one.pte")
    found = program.load_method("main").execute([x])[0]
    made = layer(model.inner[0], weights["inner.0.weight"])
    assert made is not None
    with torch.no_grad():
        expected = nn.functional.gelu(made(x), approximate="tanh")
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()
    with pytest.raises(UserError, match="leave the embeddings float"):
        layer(nn.Embedding(6, 64), record(bits, group))
