"""Which number format a layer of a width gets."""

import pytest

from masters_edge.quantization.schemes import SCHEMES


@pytest.mark.parametrize(
    ("name", "width", "stored"),
    [
        ("int4", 4304, "int8"),  # SigLIP-SO400M's MLP
        ("int4", 3420, "int8"),  # Qwen2.5-VL's
        ("int4-a8", 3420, "int8-a8"),
        ("int4-g128", 576, "int8"),
        ("int4", 576, "int4"),
        ("int8", 3420, "int8"),
        ("int8-a8", 7, "int8-a8"),
    ],
)
def test_groups_that_do_not_fill_a_width_give_way_to_int8_by_row(name: str, width: int, stored: str) -> None:
    assert SCHEMES[name].filling(width) == SCHEMES[stored]
