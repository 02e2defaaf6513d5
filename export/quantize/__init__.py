"""Quantize once, by torchao, into a neutral integer record that every target lowers.

`schemes.py` (number formats), `plan.py` (which part gets which), `weights.py` (do it: `quantize`, and its file),
`record.py` (one tensor's integers), `methods.py` (how integers are chosen), `auto.py` (how many bits a layer gets).
Schemes and plans are light to import; `quantize`, `save` and `load` need torch and torchao.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masters_edge.export.quantize.weights import Weights
    from masters_edge.export.student import LoadedStudent
    from masters_edge.quantization.by_part import QuantizationPlan


def quantize(
    student: "LoadedStudent",
    plan: "QuantizationPlan",
    method: str = "rtn",
    samples: Sequence[Any] | None = None,
    chosen: Path | None = None,
) -> "Weights":
    """See `weights.quantize`."""
    from masters_edge.export.quantize import weights

    return weights.quantize(student, plan, method, samples, chosen)


def save(path: Path, found: "Weights") -> None:
    """See `weights.save`."""
    from masters_edge.export.quantize import weights

    weights.save(path, found)


def load(path: Path) -> "Weights":
    """See `weights.load`."""
    from masters_edge.export.quantize import weights

    return weights.load(path)
