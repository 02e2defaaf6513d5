"""What a preview takes of the machine that makes it: memory, disk and time, estimated before anything starts.

    checkpoint = 2 bytes x parameters
    bundles = sum over target and scheme of export/disk_space.py's estimate, of which the copy is needed once
    memory = FLOAT32 x 4 bytes x parameters + libraries

The factors were measured at SmolVLM-256M's shape (docs/results/export.md); time is that on two cores.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from masters_edge.common.errors import UserError
from masters_edge.export import disk_space
from masters_edge.preview.weights import stored_bytes
from masters_edge.quantization import by_part

LARGE = 1_000_000_000  # parameters from which on a preview asks before it starts
_MEMORY = {"onnx": 2.9, "onnx_portable": 2.9, "openvino": 3.0, "coreml": 3.8, "gguf": 3.7}  # of the float32 weights
_MEMORY_ELSEWHERE = 4.0
_LIBRARIES = 600 << 20  # bytes of torch and its neighbours
_SECONDS = {"onnx": 95, "onnx_portable": 95, "openvino": 75, "coreml": 150, "gguf": 30}  # at so many parameters:
_SECONDS_AT = 256e6
_SECONDS_ELSEWHERE = 900
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cost:
    """Bytes and seconds."""

    memory: int
    disk: int
    seconds: float

    @property
    def words(self) -> str:
        minutes = max(1, round(self.seconds / 60))
        return (
            f"about {_size(self.memory)} of memory, {_size(self.disk)} of disk and, on two cores, {minutes} "
            f"minute{'s' * (minutes > 1)} before it is measured"
        )


def estimate(parameters: Mapping[str, int], wanted: Sequence[tuple[str, str]], made: bool = False) -> Cost:
    """Of exporting `wanted`, each a target and a scheme. `parameters`: counts by part; tied ones once, as embeddings.

    `made`: the checkpoint lies there already.
    """
    total = sum(parameters.values())
    both = dict(parameters) | {"head": parameters["head"] or parameters["embeddings"], "elsewhere": 0}
    each = [disk_space.needed(both, by_part.plan(scheme)) for _, scheme in wanted]
    disk = sum(each) // 2 + max(each, default=0) // 2 + (0 if made else stored_bytes(total))
    factor = max((_MEMORY.get(target, _MEMORY_ELSEWHERE) for target, _ in wanted), default=0.0)
    seconds = sum(_SECONDS.get(target, _SECONDS_ELSEWHERE) for target, _ in wanted) * total / _SECONDS_AT
    return Cost(round(factor * 4 * total) + _LIBRARIES, disk, seconds)


def check(cost: Cost, name: str, out: Path) -> None:
    """Raise UserError where memory or disk are too small."""
    free = available_memory()
    if free < cost.memory:
        raise UserError(
            f"exporting {name} takes about {_size(cost.memory)} of memory, and {_size(free)} are free here; close "
            "other programs, use a machine with more memory, or a smaller config"
        )
    place = out.absolute()
    while not place.exists():
        place = place.parent
    left = shutil.disk_usage(place).free
    if left < cost.disk:
        raise UserError(
            f"the disk of {out} has {_size(left)} free, but a preview of {name} takes about {_size(cost.disk)}; "
            "make room, or choose another folder with --out"
        )


def available_memory(cgroup: Path = _CGROUP) -> int:
    """Bytes that this process may still take: what is free, and within a container's limit."""
    free = psutil.virtual_memory().available
    limit, used = (_number(cgroup / name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else max(0, min(free, limit - used))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
