"""The response store at scale: rows a second, bytes a row, and memory that stays flat; beside what else there is.

    python recipes/responses/store_scale.py                      # 5 M rows, a few minutes, 2 GB of disk for a while
    python recipes/responses/store_scale.py --rows 500000 --plain-rows 50000

Rows are synthetic: half of the questions have answers of one token (8 drawn, a few distinct ones kept with their
counts), half have 8 distinct answers of 100 tokens; token ids are drawn by Zipf's law from 151,936. They are made
beforehand, written shard by shard with the store's own code, and read as training reads them: a shard when its first
question comes, a few kept. The alternatives write and read the first rows of the same, each in a process of its own.
"""

import argparse
import dataclasses
import gzip
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from masters_edge.common.display import say
from masters_edge.responses import shards, store
from masters_edge.responses.store import Origin, Response

VOCABULARY, DRAWN, LONG, POOL = 151_936, 8, 100, 4
SHARDS_KEPT = 8  # as training.batches
PAPER = 60_000_000
ORIGIN = Origin("5" * 64, "7" * 64, "a" * 16, "b" * 16, "transformers", "transformers", '{"top_k": 50}', 0)
Marks = list[dict[str, float]]
Pool = Sequence[list[Response]]


def synthetic_shards(questions: int) -> list[list[Response]]:
    """A few shards' rows, to be written over and over under other question ids."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, 50_001)
    words = rng.permutation(VOCABULARY)[: len(weights)]

    def tokens(count: int) -> np.ndarray:
        return words[np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(count))]

    def group(question: int) -> Iterator[Response]:
        length = 1 if question % 2 else LONG
        drawn = [tuple(tokens(length).tolist()) for _ in range(DRAWN)]
        if length == 1:  # a peaked distribution: few distinct answers
            drawn = [drawn[int(rng.geometric(0.5)) % 4] for _ in drawn]
        for ids in dict.fromkeys(drawn):
            yield Response(
                question_id="",
                stage=0,
                teacher=0,
                ratio=0.2,
                source=("student", "teacher", "both")[rng.integers(3)],
                token_ids=list(ids),
                text=" ".join(f"w{i}" for i in ids),
                count=drawn.count(ids),
                log_probs=-(rng.exponential(1, len(ids)) ** 2).astype(np.float32),
                jsd=float(rng.random()),
                label="a label",
                label_source="label",
                metric="exact_match",
                r_acc=float(rng.integers(2)),
                scorer="rule:exact_match",
            )

    return [[row for q in range(questions) for row in renamed(list(group(q)), q)] for _ in range(POOL)]


def renamed(rows: list[Response], question: int) -> list[Response]:
    for row in rows:
        row.question_id = f"train-{question:08d}"
    return rows


def numbered(pool: Pool, questions: int, number: int) -> list[Response]:
    """The rows of shard `number`: a shard of the pool, its questions renamed."""
    rows = pool[number % len(pool)]
    names: dict[str, int] = {}
    for row in rows:
        inside = names.setdefault(row.question_id, len(names))
        row.question_id = f"train-{number * questions + inside:08d}"
    return rows


def rss_mib() -> float:
    return psutil.Process().memory_info().rss / 2**20


class Meter:
    """Seconds spent inside `with`, and the resident memory at every n-th part of all rows."""

    def __init__(self, what: str, rows: int, parts: int = 5) -> None:
        self.what, self.rows, self.every = what, 0, rows / parts
        self.seconds, self.marks, self.began = 0.0, Marks(), 0.0

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter() - self.began

    def add(self, rows: int) -> None:
        self.rows += rows
        if not self.marks or self.rows >= self.every * (self.marks[-1]["part"] + 1):
            part = int(self.rows / self.every)
            self.marks.append({"part": part, "rows": self.rows, "rss_mib": rss_mib(), "seconds": self.seconds})
            say(
                f"{self.what}: {self.rows:>10,} rows  {self.rows / self.seconds:>9,.0f} rows/s  "
                f"{self.marks[-1]['rss_mib']:6.0f} MiB resident"
            )


def at_scale(folder: Path, rows: int, questions: int) -> dict[str, Any]:
    """Write so many rows, then read them as training does, then scan two columns."""
    pool = synthetic_shards(questions)
    count = max(1, round(rows * len(pool) / sum(map(len, pool))))
    total = sum(len(pool[number % len(pool)]) for number in range(count))
    writing, reading, scanning = (Meter(what, total) for what in ("write", "read ", "scan "))

    def make(number: int, path: Path) -> None:
        some = numbered(pool, questions, number)
        with writing:
            store.write(path, some, ORIGIN)
        writing.add(len(some))

    paths = shards.fill(folder, [f"part-{number:05d}.parquet" for number in range(count)], make)
    size = sum(path.stat().st_size for path in paths)
    kept = lru_cache(SHARDS_KEPT)(store.groups)
    drawn = tokens = 0
    for number, path in enumerate(paths):
        seen = 0
        with reading:
            for question in range(number * questions, (number + 1) * questions):
                group = kept(path)[f"train-{question:08d}"]
                drawn += sum(row["count"] for row in group)
                tokens += len(np.concatenate([row["token_ids"] for row in group]))
                seen += len(group)
        reading.add(seen)
    assert drawn == DRAWN * count * questions and reading.rows == total
    kept.cache_clear()
    batches = store.scan(folder, ["count", "r_acc"])
    while True:
        with scanning:
            batch = next(batches, None)
        if batch is None:
            break
        scanning.add(batch.num_rows)
    assert scanning.rows == total
    meters = {"write": writing, "read": reading, "scan": scanning}
    return {
        "rows": total,
        "shards": count,
        "responses": drawn,
        "tokens": tokens,
        "bytes": size,
        "bytes_per_row": size / total,
        **{f"{name}_rows_per_second": total / meter.seconds for name, meter in meters.items()},
        "rss": {name: meter.marks for name, meter in meters.items()},
    }


def parts(pool: Pool, rows: int, questions: int) -> Iterator[list[Response]]:
    """The first `rows` rows, shard by shard."""
    for number in itertools.count():
        some = numbered(pool, questions, number)[:rows]
        yield some
        rows -= len(some)
        if rows <= 0:
            return


def as_dict(row: Response) -> dict[str, Any]:
    """A row with its provenance, numbers as Python objects."""
    values = {name: getattr(row, name) for name in store.RESPONSE} | dataclasses.asdict(ORIGIN)
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def with_store(path: Path, some: Iterator[list[Response]]) -> Callable[[], int]:
    for number, rows in enumerate(some):
        store.write(path / f"part-{number:05d}.parquet", rows, ORIGIN)
    return lambda: sum(len(group) for part in sorted(path.iterdir()) for group in store.groups(part).values())


def with_pylist(path: Path, some: Iterator[list[Response]]) -> Callable[[], int]:
    """A shard at a time as here, by pyarrow's own means (and as masters-edge did it before)."""
    import pyarrow.parquet

    for number, rows in enumerate(some):
        table = pyarrow.Table.from_pylist([as_dict(row) for row in rows])
        pyarrow.parquet.write_table(table, path / f"part-{number:05d}.parquet", compression="zstd")
    return lambda: sum(len(pyarrow.parquet.read_table(part).to_pylist()) for part in sorted(path.iterdir()))


def with_pandas(path: Path, some: Iterator[list[Response]]) -> Callable[[], int]:
    import pandas

    pandas.DataFrame([as_dict(row) for rows in some for row in rows]).to_parquet(path / "all.parquet")
    return lambda: len(pandas.read_parquet(path / "all.parquet").to_dict("records"))


def with_datasets(path: Path, some: Iterator[list[Response]]) -> Callable[[], int]:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list([as_dict(row) for rows in some for row in rows]).save_to_disk(str(path))
    return lambda: sum(1 for row in datasets.load_from_disk(str(path)))


def with_json_lines(path: Path, some: Iterator[list[Response]]) -> Callable[[], int]:
    with gzip.open(path / "all.jsonl.gz", "wt", encoding="utf-8") as out:
        for row in itertools.chain.from_iterable(some):
            out.write(json.dumps(as_dict(row)) + "\n")

    def read() -> int:
        with gzip.open(path / "all.jsonl.gz", "rt", encoding="utf-8") as lines:
            return sum(len(json.loads(line)["token_ids"]) > 0 for line in lines)

    return read


WAYS: dict[str, Callable[[Path, Iterator[list[Response]]], Callable[[], int]]] = {
    "the store": with_store,
    "pyarrow, from_pylist": with_pylist,
    "pandas, to_parquet": with_pandas,
    "datasets, from_list": with_datasets,
    "JSON lines, gzip": with_json_lines,
}


def measure(way: str, rows: int, questions: int) -> dict[str, float]:
    """Runs in the child: every way has the rows ready, and its libraries imported, before the clock starts.

    Speeds are in processor time, so that other work on the machine doesn't change them.
    """
    import datasets  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    pool = synthetic_shards(questions)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "few").mkdir()
        WAYS[way](Path(folder) / "few", parts(pool, 10, questions))()
        before = rss_mib()
        (Path(folder) / "all").mkdir()
        started = time.process_time()
        read = WAYS[way](Path(folder) / "all", parts(pool, rows, questions))
        written = time.process_time()
        size = sum(path.stat().st_size for path in Path(folder, "all").rglob("*") if path.is_file())
        assert read() == rows
        done = time.process_time()
    return {
        "write_rows_per_second": rows / (written - started),
        "read_rows_per_second": rows / (done - written),
        "bytes_per_row": size / rows,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before,
    }


def child(way: str, rows: int, questions: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", way, "--plain-rows", str(rows), "--questions", str(questions)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--plain-rows", type=int, default=200_000, help="rows for the alternatives")
    parser.add_argument("--questions", type=int, default=512, help="of a shard")
    parser.add_argument("--folder", type=Path, help="where to write for a while; default: the temporary folder")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.child, given.plain_rows, given.questions)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        figures = at_scale(Path(folder) / "responses", given.rows, given.questions)
    say(f"{figures['rows']:,} rows in {figures['shards']:,} shards, {figures['bytes_per_row']:.0f} bytes a row")
    say(f"of {figures['responses']:,} responses drawn, with {figures['tokens']:,} tokens")
    hours = {name: PAPER / figures[f"{name}_rows_per_second"] / 3600 for name in ("write", "read")}
    size = PAPER * figures["bytes_per_row"] / 1e9
    say(f"extrapolated to {PAPER:,} rows: {size:.0f} GB; of one process {hours['write']:.1f} h to write,")
    say(f"{hours['read']:.1f} h to read")
    figures["beside"] = {way: child(way, given.plain_rows, given.questions) for way in WAYS}
    say(f"{given.plain_rows:,} rows, each way in a process of its own, rows a second of processor time;")
    say("in brackets, as a part of the store's:")
    for way, found in figures["beside"].items():
        of = {name: value / figures["beside"]["the store"][name] for name, value in found.items()}
        print(
            f"{way:20} write {found['write_rows_per_second']:>9,.0f} rows/s ({of['write_rows_per_second']:.2f})"
            f"  read {found['read_rows_per_second']:>9,.0f} rows/s ({of['read_rows_per_second']:.2f})"
            f"  {found['bytes_per_row']:6,.0f} bytes/row ({of['bytes_per_row']:.2f})"
            f"  {found['peak_mib']:6,.0f} MiB above the start"
        )
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
