"""What a bundle's files hold is compared with torchao's integers, bit for bit."""

import numpy as np
import pytest

from masters_edge.common.errors import UserError
from masters_edge.export.gate import integers
from masters_edge.export.quantize.record import QuantizedTensor

RECORD = QuantizedTensor(
    "layer.weight",
    integers=np.arange(-8, 8, dtype=np.int8).repeat(12).reshape(2, 96),
    scales=np.array([[0.5, 0.25, 1], [2, 3, 4]], np.float16),
    zero_points=np.zeros((2, 3), np.int8),
    bits=4,
    group_size=32,
)


def check(integers_found: np.ndarray, scales: np.ndarray, name: str = "layer.weight") -> None:
    integers.check([(name, integers_found, scales)], {"layer.weight": RECORD})


def test_a_repeated_scale_is_the_same_scale() -> None:
    check(RECORD.integers, RECORD.scales)
    check(RECORD.integers, RECORD.scales.astype(np.float32).repeat(2, axis=1))


@pytest.mark.parametrize("scales", [RECORD.scales * 2, RECORD.scales[:, ::-1], RECORD.scales[:, :2]])
def test_other_scales(scales: np.ndarray) -> None:
    with pytest.raises(UserError, match="the scales of layer.weight"):
        check(RECORD.integers, scales)


def test_other_integers() -> None:
    other = RECORD.integers.copy()
    other[1, 40] += 1
    with pytest.raises(UserError, match="the integers of layer.weight .* first at row 1, column 40"):
        check(other, RECORD.scales)
    with pytest.raises(UserError, match="the integers of layer.weight"):
        check(RECORD.integers[:1], RECORD.scales)


def test_weights_too_many_and_too_few() -> None:
    with pytest.raises(UserError, match="other.weight is quantized in the bundle's files but not in the student"):
        check(RECORD.integers, RECORD.scales, "other.weight")
    with pytest.raises(UserError, match="layer.weight is quantized, but its integers are not in the files"):
        integers.check([], {"layer.weight": RECORD})
