"""torchao's integers as ggml's blocks of 32, and back: the same integers, the same float16 scales.

Q4_0: a float16 scale, then 16 bytes, value i in the low and value i + 16 in the high half of byte i, each 8 too high.
Q8_0: a float16 scale, then 32 signed bytes. Both as in ggml's `ggml-common.h` (`block_q4_0`, `block_q8_0`).
"""

import numpy as np
from gguf import GGMLQuantizationType

from masters_edge.export.quantize.record import QuantizedTensor

BLOCK = 32
TYPES = {4: GGMLQuantizationType.Q4_0, 8: GGMLQuantizationType.Q8_0}


def fits(record: QuantizedTensor) -> bool:
    """Whether its rows are whole blocks, its groups too, and its zero points zero, as both formats assume."""
    whole = record.integers.shape[1] % BLOCK == 0 and record.group_size % BLOCK == 0
    return record.bits in TYPES and whole and not record.zero_points.any()


def encode(record: QuantizedTensor) -> np.ndarray:
    """uint8 [out, bytes of a row]; a scale shared by more than 32 values is repeated for each block."""
    if not fits(record):
        raise ValueError(f"{record.name}: {record.bits} bits in groups of {record.group_size} are no blocks of {BLOCK}")
    out, inside = record.integers.shape
    blocks = record.integers.reshape(out, inside // BLOCK, BLOCK)
    scales = record.scales.repeat(record.group_size // BLOCK, axis=1)[..., None].astype("<f2").view(np.uint8)
    if record.bits == 4:
        high = (blocks.astype(np.int16) + 8).astype(np.uint8)
        values = high[..., : BLOCK // 2] | (high[..., BLOCK // 2 :] << 4)
    else:
        values = blocks.view(np.uint8)
    return np.concatenate([scales, values], axis=-1).reshape(out, -1)


def decode(rows: np.ndarray, kind: GGMLQuantizationType) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [out, bytes of a row] -> integers int8 [out, in], scales float32 [out, in / 32]."""
    size = 2 + (BLOCK // 2 if kind == GGMLQuantizationType.Q4_0 else BLOCK)
    blocks = np.ascontiguousarray(rows).reshape(rows.shape[0], -1, size)
    scales = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0].astype(np.float32)
    values = np.ascontiguousarray(blocks[..., 2:])
    if kind == GGMLQuantizationType.Q4_0:
        integers = np.concatenate([values & 15, values >> 4], axis=-1).astype(np.int8) - 8
    else:
        integers = values.view(np.int8)
    return integers.astype(np.int8).reshape(rows.shape[0], -1), scales
