"""The promise of one set of integers, checked on every finished bundle: its files are decoded and compared bit for bit.

A target's `integers(folder, graphs)` yields what its files hold; the records are torchao's.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from masters_edge.common.errors import UserError
from masters_edge.export.quantize.record import QuantizedTensor

# A parameter's name, its integers int8 [out, in], and scales [out, groups].
Decoded = tuple[str, np.ndarray, np.ndarray]


def check(decoded: Iterable[Decoded], records: Mapping[str, QuantizedTensor]) -> None:
    """Raise UserError naming the first weight whose integers or scales in the files aren't the record's, or is missing.

    A format with smaller groups than the scheme repeats a scale for each of them; that is the same scale.
    """
    found = set()
    for name, integers, scales in decoded:
        record = records.get(name)
        if record is None:
            raise UserError(f"{name} is quantized in the bundle's files but not in the student; no bundle was written")
        _compare(record, integers, scales)
        found.add(name)
    missing = sorted(set(records) - found)
    if missing:
        raise UserError(f"{missing[0]} is quantized, but its integers are not in the files; no bundle was written")


def _compare(record: QuantizedTensor, integers: np.ndarray, scales: np.ndarray) -> None:
    out, groups = record.scales.shape
    repeats, odd = divmod(scales.shape[-1], groups)
    expected = record.scales.astype(np.float32).repeat(max(repeats, 1), axis=1)
    if odd or not np.array_equal(scales.astype(np.float32), expected):
        raise UserError(f"the scales of {record.name} in the files are not torchao's; no bundle was written")
    if not np.array_equal(integers, record.integers):
        where = ""
        if integers.shape == record.integers.shape:
            row, column = np.argwhere(integers != record.integers)[0]
            where = f" first at row {row}, column {column}"
        raise UserError(f"the integers of {record.name} in the files are not torchao's{where}; no bundle was written")
