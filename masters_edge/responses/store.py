"""The response store: Parquet shards, one row per distinct response, with where it came from and what it scored.

A shard holds the groups of some questions of one stage. It is written whole or not at all, and read as a whole; no
more is ever in memory, so the disk alone bounds the store. `shards.fill` makes the shards that are missing.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from masters_edge.common import versions
from masters_edge.common.errors import UserError
from masters_edge.common.files import whole_file

SCHEMA_VERSION = 4
_VERSION_KEY = b"masters_edge_schema_version"


@dataclass(slots=True)
class Response:
    """One distinct response to one question in one stage.

    `jsd` is D of METHOD 4 under the student the phase started from, None for a response of no tokens; `log_probs` are
    that student's, per token. `cut`: it has no end token, since `max_new_tokens` (or an image placeholder) came first.
    With `teacher_logits: cached`, `top_ids` int32 `[tokens * k]`, `top_log_probs` float16 alike and `rest` float32
    `[tokens]` are the stage's teacher at each token (objective.divergence.TopLogProbs, flattened); else they are None.
    `label` is what `r_acc` was scored against and `label_source` who gave it: `label`, `teacher`, or None. `scorer` is
    who scored (`rule:exact_match`, `rule:cut`, `judge:<model>`); `r_acc` is None where nobody did. What follows from
    the group as a whole (R_distill, advantages) is not stored: `rewards` computes it from `jsd`, `r_acc` and `count`.
    `student_count` says how many of the `count` the student gave, where it is known; the others are the teacher's.
    """

    question_id: str
    stage: int
    teacher: int
    ratio: float
    source: str  # "student", "teacher" or "both"
    token_ids: Sequence[int] | np.ndarray
    text: str
    count: int
    log_probs: Sequence[float] | np.ndarray
    jsd: float | None
    label: str | None
    label_source: str | None
    metric: str
    r_acc: float | None
    scorer: str | None
    student_count: int | None = None
    cut: bool = False
    top_ids: np.ndarray | None = None
    top_log_probs: np.ndarray | None = None
    rest: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a shard's responses come from; stands in every row, where it costs nothing.

    `student` and `teacher_model` are fingerprints of the checkpoints, the templates hashes of their chat templates, the
    engines their names, `sampling` the settings as canonical JSON.
    """

    student: str
    teacher_model: str
    student_template: str
    teacher_template: str
    student_engine: str
    teacher_engine: str
    sampling: str
    seed: int


RESPONSE = tuple(field.name for field in dataclasses.fields(Response))
_ORIGIN = tuple(field.name for field in dataclasses.fields(Origin))


@lru_cache(1)
def _schema() -> Any:
    """Every column, in order. Few distinct words are kept as dictionaries, floats that feed a sum in float64."""
    import pyarrow as pa

    word = pa.dictionary(pa.int32(), pa.string())
    numbers = {"int32": pa.list_(pa.int32()), "float32": pa.list_(pa.float32()), "float16": pa.list_(pa.float16())}
    return pa.schema(
        {
            "question_id": pa.string(),
            "stage": pa.int32(),
            "teacher": pa.int32(),
            "ratio": pa.float64(),
            "source": word,
            "token_ids": numbers["int32"],
            "text": pa.string(),
            "count": pa.int32(),
            "log_probs": numbers["float32"],
            "jsd": pa.float64(),
            "label": pa.string(),
            "label_source": word,
            "metric": word,
            "r_acc": pa.float64(),
            "scorer": word,
            "student_count": pa.int32(),
            "cut": pa.bool_(),
            "top_ids": numbers["int32"],
            "top_log_probs": numbers["float16"],
            "rest": numbers["float32"],
            **{name: pa.int64() if name == "seed" else word for name in _ORIGIN},
        },
        metadata={_VERSION_KEY: str(SCHEMA_VERSION).encode()},
    )


# No two values are alike: a dictionary would make them larger, and bytes of one place compress better together.
_ALL_DISTINCT = ("log_probs", "rest", "top_log_probs")


def write(path: Path, rows: Sequence[Response] | Sequence[dict[str, Any]], origin: Origin | None = None) -> None:
    """Rows as one Parquet file, on the disk when this returns.

    Dicts, which all have the same keys, may have some of the columns only.
    """
    import pyarrow as pa
    import pyarrow.parquet

    schema = _schema()
    dicts = bool(rows) and isinstance(rows[0], dict)
    names = list(rows[0]) if dicts else RESPONSE  # type: ignore[arg-type]
    getter: Callable[[str], Any] = itemgetter if dicts else attrgetter
    columns = {name: _column(list(map(getter(name), rows)), schema.field(name).type) for name in names}
    if origin is not None:
        columns |= _same_in_all(origin, len(rows))
    chosen = pa.schema([schema.field(name) for name in columns], schema.metadata)
    table = pa.Table.from_arrays(list(columns.values()), schema=chosen)
    with whole_file(path) as temporary:
        leaves = {
            name: f"{name}.list.element" if pa.types.is_list(chosen.field(name).type) else name for name in columns
        }
        pa.parquet.write_table(
            table,
            temporary,
            compression="zstd",
            write_page_checksum=True,
            use_dictionary=[leaf for name, leaf in leaves.items() if name not in _ALL_DISTINCT],
            column_encoding={leaf: "BYTE_STREAM_SPLIT" for name, leaf in leaves.items() if name in _ALL_DISTINCT},
        )


def _same_in_all(origin: Origin, rows: int) -> dict[str, Any]:
    """Columns of where the rows come from: one word each, and a place in a dictionary of one for each row."""
    import pyarrow as pa

    first = pa.array(np.zeros(rows, np.int32))
    words = {name: getattr(origin, name) for name in _ORIGIN if name != "seed"}
    columns = {name: pa.DictionaryArray.from_arrays(first, pa.array([word])) for name, word in words.items()}
    return {**columns, "seed": pa.repeat(pa.scalar(origin.seed, pa.int64()), rows)}


def _column(values: list[Any], kind: Any) -> Any:
    """One column as an Arrow array; lists of numbers without a Python object for each where they are numpy arrays."""
    import pyarrow as pa

    if not pa.types.is_list(kind):
        return pa.array(values, kind)
    missing = np.fromiter((value is None for value in values), bool, len(values))
    parts = [value for value in values if value is not None]
    ends = np.cumsum([0 if value is None else len(value) for value in values], dtype=np.int32)
    dtype = kind.value_type.to_pandas_dtype()
    if parts and isinstance(parts[0], np.ndarray):
        flat = np.concatenate(parts).astype(dtype, copy=False)
    else:
        flat = np.fromiter(itertools.chain.from_iterable(parts), dtype)
    offsets = pa.array(np.concatenate([np.zeros(1, np.int32), ends]))
    return pa.ListArray.from_arrays(
        offsets, pa.array(flat, kind.value_type), type=kind, mask=pa.array(missing) if missing.any() else None
    )


def read(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Rows of one shard, with all columns or those asked for; lists of numbers are numpy arrays (`token_ids` int64).

    Raises:
        UserError: the file is damaged or of another schema version.
    """
    import pyarrow

    with _opened(path) as file:
        table = file.read(columns=_present(file, path, columns))
    names = table.column_names
    if "token_ids" in names:  # torch indexes with int64
        place = names.index("token_ids")
        table = table.set_column(place, "token_ids", table["token_ids"].cast(pyarrow.list_(pyarrow.int64())))
    values = dict(zip(names, (_values(table[name].combine_chunks()) for name in names)))
    return [dict(zip(values, row)) for row in zip(*values.values())]


def groups(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of one shard by question id, without where they come from: what training reads."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in read(path, RESPONSE):
        found.setdefault(row["question_id"], []).append(row)
    return found


def scan(folder: Path, columns: Sequence[str] | None = None, rows: int = 4096) -> Iterator[Any]:
    """All rows of the shards below a folder, in order of their names, as `pyarrow.RecordBatch`es of at most `rows`;
    memory stays flat however many there are.

    Raises:
        UserError: there is no such folder, or a file is damaged or of another schema version.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder with response shards; masters-edge generate makes one in a run folder")
    for path in sorted(folder.rglob("[!.]*.parquet")):
        with _opened(path) as file:
            yield from file.iter_batches(rows, columns=_present(file, path, columns))


def _present(file: Any, path: Path, columns: Sequence[str] | None) -> list[str] | None:
    """The columns asked for, none for all; pyarrow leaves out what isn't there without a word."""
    lacking = set(columns or ()) - set(file.schema_arrow.names)
    if lacking:
        raise UserError(f"{path} has no column {' and '.join(sorted(lacking))}; delete it, and generate makes it again")
    return None if columns is None else list(columns)


class _opened:
    """A shard as pyarrow's ParquetFile, its version checked; what pyarrow finds wrong inside becomes a UserError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        import pyarrow.parquet

        try:
            self.file = pyarrow.parquet.ParquetFile(self.path, page_checksum_verification=True)
            version = (self.file.schema_arrow.metadata or {}).get(_VERSION_KEY, b"?").decode()
        except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise self._damaged(error) from None
        if version != str(SCHEMA_VERSION):
            self.file.close()
            raise UserError(
                f"{self.path} has schema version {version}, this is masters-edge {versions.own()} with version "
                f"{SCHEMA_VERSION}; delete the shards in {self.path.parent}, and the same command makes them again"
            )
        return self.file

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import pyarrow

        self.file.close()
        if isinstance(error, (OSError, pyarrow.ArrowException)):
            raise self._damaged(error) from None

    def _damaged(self, error: BaseException) -> UserError:
        why = " ".join(str(error).split())
        return UserError(f"{self.path} is damaged ({why}); delete it, and the same command makes it again")


def _values(column: Any) -> list[Any]:
    """A column's values as Python objects, those of lists as numpy arrays over one buffer."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        words = column.dictionary.to_pylist()
        return [None if place is None else words[place] for place in column.indices.to_pylist()]
    if not pa.types.is_list(column.type):
        return column.to_pylist()
    offsets, values = column.offsets.to_numpy().tolist(), column.values.to_numpy(zero_copy_only=False)
    found: list[Any] = [values[start:end] for start, end in zip(offsets, offsets[1:])]
    if column.null_count:
        found = [part if there else None for part, there in zip(found, column.is_valid().to_pylist())]
    return found


def shards(items: Sequence[Any], size: int) -> Iterator[tuple[int, Sequence[Any]]]:
    """(number, items) of consecutive shards."""
    for number, start in enumerate(range(0, len(items), size)):
        yield number, items[start : start + size]
