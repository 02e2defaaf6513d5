"""The response store: Parquet shards, one row per distinct response, with where it came from and what it scored.

A shard holds the groups of some questions of one stage. It is written whole or not at all, so a killed run makes only
the shards that are missing.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from masters_edge.errors import UserError
from masters_edge.files import sweep, whole_file

SCHEMA_VERSION = 2


@dataclass(slots=True)
class Response:
    """One distinct response to one question in one stage.

    `jsd` is D of METHOD 4 under the student the phase started from; `log_probs` are that student's, per token.
    With `teacher_logits: cached`, `top_ids` int32 `[tokens * k]`, `top_log_probs` float16 alike and `rest` float32
    `[tokens]` are the stage's teacher at each token (objective.divergence.TopLogProbs, flattened); else they are None.
    `label` is what `r_acc` was scored against and `label_source` who gave it: `label`, `teacher`, or None.
    """

    question_id: str
    stage: int
    teacher: int
    ratio: float
    source: str  # "student", "teacher" or "both"
    seed: int
    token_ids: list[int]
    text: str
    count: int
    log_probs: list[float]
    jsd: float
    label: str | None
    label_source: str | None
    metric: str
    r_acc: float | None
    r_distill: float
    reward: float
    advantage: float
    top_ids: np.ndarray | None = None
    top_log_probs: np.ndarray | None = None
    rest: np.ndarray | None = None


_ARRAYS = ("token_ids", "log_probs", "top_ids", "top_log_probs", "rest")  # read as numpy arrays


def write(path: Path, rows: Sequence[Any]) -> None:
    """Rows (dataclasses or dicts) as one Parquet file with the schema version in its metadata."""
    import pyarrow
    import pyarrow.parquet

    values = [row if isinstance(row, dict) else _fields(row) for row in rows]
    table = pyarrow.Table.from_pylist(values)
    table = table.replace_schema_metadata({"masters_edge_schema_version": str(SCHEMA_VERSION)})
    with whole_file(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of one shard.

    Raises:
        UserError: the file is damaged or of another schema version.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise UserError(f"{path} is damaged ({error}); delete it, and the same command makes it again") from None
    version = (table.schema.metadata or {}).get(b"masters_edge_schema_version", b"?").decode()
    if version != str(SCHEMA_VERSION):
        raise UserError(f"{path} has schema version {version}, expected {SCHEMA_VERSION}; delete it to make it again")
    arrays = {name: _arrays(table[name]) for name in _ARRAYS if name in table.column_names}
    rows = table.drop_columns(list(arrays)).to_pylist() if arrays else table.to_pylist()
    for name, column in arrays.items():
        for row, value in zip(rows, column):
            row[name] = value
    return rows


def groups(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of one shard by question id."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in read(path):
        found.setdefault(row["question_id"], []).append(row)
    return found


def _fields(row: Any) -> dict[str, Any]:
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}


def _arrays(column: Any) -> list[np.ndarray | None]:
    """A column of lists as numpy arrays, without a Python object for each number."""
    import pyarrow

    column = column.combine_chunks()
    if pyarrow.types.is_null(column.type):
        return [None] * len(column)
    offsets, values = column.offsets.to_numpy(), column.values.to_numpy(zero_copy_only=False)
    return [values[start:end] for start, end in zip(offsets, offsets[1:])]


def shards(items: Sequence[Any], size: int) -> Iterator[tuple[int, Sequence[Any]]]:
    """(number, items) of consecutive shards."""
    for number, start in enumerate(range(0, len(items), size)):
        yield number, items[start : start + size]


def prepare(folder: Path) -> Path:
    """Make the folder and remove what a killed process left half-written."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    return folder
