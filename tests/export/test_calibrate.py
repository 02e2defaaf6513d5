"""HQQ and GPTQ: what they promise (nearer weights, nearer outputs), and GPTQ against its plainest form."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from masters_edge.common.errors import UserError
from masters_edge.export import student as students
from masters_edge.export.quantize import calibrate, quantize, rtn, scales
from masters_edge.quantization import by_part
from masters_edge.quantization.schemes import SCHEMES
from tests import tiny

ROWS, COLUMNS = 24, 96


@pytest.fixture(scope="module")
def loaded(models: Path) -> students.LoadedStudent:
    return students.load(models / "student")


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)) * 0.1


@pytest.fixture
def inputs() -> torch.Tensor:
    """Correlated, and of different size from column to column."""
    draw = torch.Generator().manual_seed(1)
    mixed = torch.randn(400, 16, generator=draw) @ torch.randn(16, COLUMNS, generator=draw)
    return (mixed + 0.3 * torch.randn(400, COLUMNS, generator=draw)) * torch.rand(COLUMNS, generator=draw)


def error(tensor, weight: torch.Tensor, inputs: torch.Tensor) -> float:
    return float(((torch.from_numpy(tensor.dequantize()) - weight) @ inputs.T).square().sum())


def plainest(weight: torch.Tensor, scales: np.ndarray, group: int, hessian: torch.Tensor, bits: int) -> np.ndarray:
    """GPTQ's rule column by column with the inverse of what is left taken anew each time: Eq. 2 and 3, no Cholesky."""
    left, integers = weight.double().numpy().copy(), np.zeros(weight.shape)
    hessian = hessian.double().numpy() + calibrate.DAMPING * hessian.double().diagonal().mean().item() * np.eye(COLUMNS)
    order = list(np.argsort(-hessian.diagonal(), kind="stable"))
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    while order:
        inverse = np.linalg.inv(hessian[np.ix_(order, order)])
        column = order[0]
        step = scales[:, column // group].astype(float)
        integers[:, column] = np.clip(np.rint(left[:, column] / step), low, high)
        wrong = (left[:, column] - integers[:, column] * step) / inverse[0, 0]
        left[:, order] -= np.outer(wrong, inverse[0])
        order = order[1:]
    return integers


@pytest.mark.parametrize("scheme", ["int4", "int8"])
def test_gptq_is_the_papers(weight: torch.Tensor, inputs: torch.Tensor, scheme: str, monkeypatch) -> None:
    monkeypatch.setattr(calibrate, "BLOCK", 40)  # lazy updates across three blocks
    hessian = 2 * inputs.T @ inputs
    found = calibrate.gptq_tensor("w", weight, SCHEMES[scheme], hessian)
    expected = plainest(weight, found.scales, found.group_size, hessian, found.bits)
    assert np.abs(found.integers - expected).max() == 0
    chosen = scales.least_error(weight, found.bits, found.group_size, hessian.diagonal())
    assert np.array_equal(found.scales, chosen.numpy())
    plain = rtn.round_to_nearest("w", weight, SCHEMES[scheme])
    assert error(found, weight, inputs) < 0.5 * error(plain, weight, inputs)


def test_gptq_rounds_to_nearest_where_inputs_are_independent(weight: torch.Tensor) -> None:
    """Nothing can be made up for."""
    found = calibrate.gptq_tensor("w", weight, SCHEMES["int4"], torch.eye(COLUMNS))
    step = found.scales.astype(np.float32).repeat(found.group_size, 1)
    assert (found.integers != np.clip(np.rint(weight.numpy() / step), -8, 7)).mean() < 0.001


def test_gptq_bears_inputs_that_are_always_zero_and_rows_of_zeros(weight: torch.Tensor, inputs: torch.Tensor) -> None:
    inputs[:, 10:20] = 0
    weight[3] = 0
    found = calibrate.gptq_tensor("w", weight, SCHEMES["int4"], 2 * inputs.T @ inputs)
    values = found.dequantize()
    assert np.isfinite(values).all() and not values[3].any()
    apart = np.abs(values[:, 10:20] - weight[:, 10:20].numpy())  # rounded, and the largest cut off
    assert np.median(apart) < 0.5 * found.scales.max() and apart.max() < 4 * found.scales.max()


def test_hqq_is_nearer_to_the_weights(weight: torch.Tensor) -> None:
    for scheme in ("int4", "int4-g64"):
        wide = torch.cat([weight, weight.flip(0)], 1)[:, : 2 * 64]
        found = calibrate._hqq("w", wide, SCHEMES[scheme])
        plain = rtn.round_to_nearest("w", wide, SCHEMES[scheme])
        apart = [float(np.square(t.dequantize() - wide.numpy()).sum()) for t in (found, plain)]
        assert apart[0] < 0.95 * apart[1], (scheme, apart)
        assert found.scales.dtype == np.float16 and found.scales.shape == plain.scales.shape


@pytest.mark.parametrize("method", ["hqq", "gptq"])
def test_methods_quantize_whole_students(loaded: students.LoadedStudent, method: str) -> None:
    """Same layers, same shapes as round-to-nearest; the model computes with what the records mean."""
    samples = [(tiny.picture(seed=number), "what is in this image?") for number in range(4)]
    mine, plain = copy.deepcopy(loaded), copy.deepcopy(loaded)
    chosen = by_part.plan("smallest", {"vision": "int8"})
    found, other = quantize(mine, chosen, method, samples), quantize(plain, chosen)
    assert found.method == method and found.tensors.keys() == other.tensors.keys()
    differ = 0
    for name, tensor in found.tensors.items():
        assert tensor.scales.shape == other.tensors[name].scales.shape
        assert torch.equal(mine.model.get_parameter(name), torch.from_numpy(tensor.dequantize())), name
        differ += not np.array_equal(tensor.integers, other.tensors[name].integers)
    assert differ > 10


@pytest.mark.wide
def test_gptq_answers_nearer_than_rounding_to_nearest(loaded: students.LoadedStudent) -> None:
    """Of logits on pictures that it did not see."""
    samples = [(tiny.picture(seed=number), tiny.TEXTS[2]) for number in range(12)]
    from masters_edge.export import graphs

    def logits(student: students.LoadedStudent) -> list[np.ndarray]:
        reference = graphs.family(student.model_type).Reference
        return [reference(student, tiny.picture(seed=100 + n), tiny.TEXTS[2], 1).logits for n in range(4)]

    exact, apart = logits(loaded), {}
    for method in ("rtn", "gptq"):
        student = copy.deepcopy(loaded)
        quantize(student, by_part.plan("int4"), method, samples)
        apart[method] = sum(float(np.square(a - b).sum()) for a, b in zip(exact, logits(student)))
    assert apart["gptq"] < apart["rtn"], apart


def test_gptq_without_samples_says_what_to_do(loaded: students.LoadedStudent) -> None:
    with pytest.raises(UserError, match="gptq needs samples"):
        quantize(copy.deepcopy(loaded), by_part.plan("int4"), "gptq")
