"""Where a budget of bytes helps most: which layers get int8 in place of int4.

In: for each layer what int4 costs the answers and what int8 would take more. Out: the layers worth it, bought in the
order of gain per byte: the Lagrangian's solution of the knapsack, exact but for the first layer that is too dear;
smaller ones behind it may still fit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from masters_edge.export.quantize.record import QuantizedTensor

_SCALE_EACH = 32  # ggml's blocks repeat a scale for so many values whatever the group: counted so for all targets
_SCALE_BYTES = 2


@dataclass(frozen=True)
class Upgrade:
    """`gain`: nats a token that int8 saves; `extra`: bytes that it takes more."""

    gain: float
    extra: int


def choose(upgrades: Mapping[str, Upgrade], room: float) -> list[str]:
    """Names of the upgrades to buy with `room` bytes, the best worth first."""
    bought = []
    for name, upgrade in sorted(upgrades.items(), key=lambda item: -item[1].gain / max(1, item[1].extra)):
        if upgrade.extra <= room and upgrade.gain > 0:
            bought.append(name)
            room -= upgrade.extra
    return bought


def size(record: QuantizedTensor) -> int:
    """Bytes of a weight's integers and float16 scales, in the target that takes most."""
    count = record.integers.size
    return round(count * (record.bits / 8 + _SCALE_BYTES / min(record.group_size, _SCALE_EACH)))
