"""Is there room? Before any work starts: does the disk hold what an export will write?

In: where the bundle goes, the student's weights and the plan for them. An estimate:

    need = 2 x files + 32 MiB
    files = sum over parts of weights x (bits / 8 + 4 / group size)

Twice, because the record of the integers, or a runtime's own half-made copy, lies beside the files for a while; 4 bytes
for a scale; the rest is for tokenizer and settings. Where embedding and head are one weight it counts for both, since
they are in different files. A bundle that is replaced frees nothing before the end.
"""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

from masters_edge.common.errors import UserError
from masters_edge.quantization.by_part import PARTS, QuantizationPlan
from masters_edge.quantization.schemes import SCHEMES, Scheme

_SETTINGS = 32 << 20  # bytes
_COPIES = 2
_SCALE = 4  # bytes
_ELSEWHERE = "elsewhere"  # weights under names that no part has, as in checkpoints saved long ago


def check(out: Path, student: Path, plan: QuantizationPlan, prefixes: Mapping[str, str]) -> None:
    """Raise UserError where the disk of `out` has less room than exporting `student` by `plan` takes.

    `prefixes`: what the parameter names of each part start with, as a family's `WEIGHTS` has it.
    """
    need = needed(weights_by_part(student, prefixes), plan)
    place = Path(out).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < need:
        raise UserError(
            f"the disk of {out} has {_size(free)} free, but exporting {student} as {plan.name} takes about "
            f"{_size(need)} (the files, and a copy while they are made); make room, or choose another folder with --out"
        )


def needed(weights: Mapping[str, int], plan: QuantizationPlan) -> int:
    """Bytes on the disk at most, for so many weights in each part; those elsewhere count at the widest scheme."""
    widest = {part: SCHEMES["int8"] if plan.auto and scheme.bits else scheme for part, scheme in plan.parts.items()}
    each = {part: bytes_per_weight(scheme) for part, scheme in widest.items()}
    each[_ELSEWHERE] = max(each.values())
    files = sum(count * each[part] for part, count in weights.items())
    return round(_COPIES * files) + _SETTINGS


def bytes_per_weight(scheme: Scheme) -> float:
    """Of the stored form, scales included; a scale per channel is next to nothing."""
    if scheme.bits is None:
        return 2.0 if scheme.float16 else 4.0
    return scheme.bits / 8 + (_SCALE / scheme.group_size if scheme.group_size else 0)


def weights_by_part(student: Path, prefixes: Mapping[str, str]) -> dict[str, int]:
    """How many weights each part has, read off the headers of the student's safetensors files."""
    counts = dict.fromkeys([*PARTS, _ELSEWHERE], 0)
    longest_first = sorted(prefixes.items(), key=lambda item: -len(item[1]))
    for path in sorted(student.glob("*.safetensors")):
        for name, shape in _shapes(path).items():
            part = next((part for part, prefix in longest_first if name.startswith(prefix)), _ELSEWHERE)
            counts[part] += math.prod(shape)
    if not counts["head"]:  # saved once, as the embedding
        counts["head"] = counts["embeddings"]
    return counts


def _shapes(path: Path) -> dict[str, list[int]]:
    """Names and shapes from a safetensors header; raises UserError for what is none."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length)) if length < path.stat().st_size else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise UserError(f"{path} can't be loaded (it is no safetensors file); save the student again")
    return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
