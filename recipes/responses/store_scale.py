"""The response store at scale: rows a second, bytes a row, and memory that stays flat; beside what else there is.

    python recipes/responses/store_scale.py                      # 5 M rows, a few minutes, 2 GB of disk for a while
    python recipes/responses/store_scale.py --rows 500000 --plain-rows 50000

Rows are synthetic: half of the questions have answers of one token (8 drawn, a few distinct ones kept with their
counts), half have 8 distinct answers of 100 tokens; token ids are drawn by Zipf's law from 151,936. Rows are made
beforehand and written shard by shard with the store's own code, then read as training reads them: a shard when its first
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

from masters_edge.display import say
from masters_edge.responses import shards, store
from masters_edge.responses.store import Origin, Response

VOCABULARY, DRAWN, LONG, POOL = 151_936, 8, 100, 4
SHARDS_KEPT = 8  # as training.batches
PAPER = 60_000_000
ORIGIN = Origin("5" * 64, "7" * 64, "a" * 16, "b" * 16, "transformers", "transformers", '{"top_k": 50}', 0)
Marks = list[dict[str, float]]


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


def numbered(pool: Sequence[list[Response]], questions: int, number: int) -> list[Response]:
    """The rows of shard `number`: a shard of the pool, its questions renamed."""
    rows, names = pool[number % len(pool)], {}
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
    return {
        "rows": total,
        "shards": count,
        "responses": drawn,
        "tokens": tokens,
        "bytes": size,
        "bytes_per_row": size / total,
        **{
            f"{name}_rows_per_second": total / meter.seconds
            for name, meter in (("write", writing), ("read", reading), ("scan", scanning))
        },
        "rss": {name: meter.marks for name, meter in (("write", writing), ("read", reading), ("scan", scanning))},
    }


def dicts(rows: int, questions: int) -> Iterator[dict[str, Any]]:
    """The same rows as plain dicts, provenance included, as a user would collect them."""
    pool, beside = synthetic_shards(questions), dataclasses.asdict(ORIGIN)
    every = (row for number in itertools.count() for row in numbered(pool, questions, number))
    for row in itertools.islice(every, rows):
        yield {**{name: getattr(row, name) for name in store.RESPONSE}, **beside}


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def with_store(path: Path, rows: int, questions: int) -> Callable[[], int]:
    """Shard by shard, as in `at_scale`."""
    pool = synthetic_shards(questions)
    left, number = rows, 0
    while left > 0:
        some = numbered(pool, questions, number)[:left]
        store.write(path / f"part-{number:05d}.parquet", some, ORIGIN)
        left, number = left - len(some), number + 1
    return lambda: sum(len(group) for part in sorted(path.iterdir()) for group in store.groups(part).values())


def with_pandas(path: Path, rows: int, questions: int) -> Callable[[], int]:
    import pandas

    file = path / "all.parquet"
    pandas.DataFrame(list(dicts(rows, questions))).to_parquet(file)
    return lambda: sum(len(group.to_dict("records")) for _, group in pandas.read_parquet(file).groupby("question_id"))


def with_datasets(path: Path, rows: int, questions: int) -> Callable[[], int]:
    import datasets

    datasets.disable_progress_bars()
    every = [{name: plain(value) for name, value in row.items()} for row in dicts(rows, questions)]
    datasets.Dataset.from_list(every).save_to_disk(str(path))
    return lambda: sum(1 for row in datasets.load_from_disk(str(path)).with_format("numpy"))


def with_json_lines(path: Path, rows: int, questions: int) -> Callable[[], int]:
    file = path / "all.jsonl.gz"
    with gzip.open(file, "wt", encoding="utf-8") as out:
        for row in dicts(rows, questions):
            out.write(json.dumps({name: plain(value) for name, value in row.items()}) + "\n")

    def read() -> int:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            return sum(len(json.loads(line)["token_ids"]) > 0 for line in lines)

    return read


WAYS: dict[str, Callable[[Path, int, int], Callable[[], int]]] = {
    "the store": with_store,
    "pandas, to_parquet": with_pandas,
    "datasets, from_list": with_datasets,
    "JSON lines, gzip": with_json_lines,
}


def measure(way: str, rows: int, questions: int) -> dict[str, float]:
    """Runs in the child. Making the rows is part of every way's writing time: nobody's are ready beforehand."""
    synthetic_shards(questions)  # what is imported and allocated for it
    import datasets  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    before = rss_mib()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        read = WAYS[way](Path(folder), rows, questions)
        written = time.perf_counter()
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        assert read() == rows
        done = time.perf_counter()
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
    times = PAPER / figures["rows"]
    say(
        f"{figures['rows']:,} rows in {figures['shards']:,} shards ({figures['responses']:,} responses drawn, "
        f"{figures['tokens']:,} tokens kept): {figures['bytes_per_row']:.0f} bytes a row"
    )
    say(
        f"extrapolated to {PAPER:,} rows: {figures['bytes'] * times / 1e9:.0f} GB, "
        f"{PAPER / figures['write_rows_per_second'] / 3600:.1f} h of one process to write, "
        f"{PAPER / figures['read_rows_per_second'] / 3600:.1f} h to read"
    )
    figures["beside"] = {way: child(way, given.plain_rows, given.questions) for way in WAYS}
    own = figures["beside"]["the store"]
    say(f"{given.plain_rows:,} rows, each way in a process of its own:")
    for way, found in figures["beside"].items():
        say(
            f"{way:20} write {found['write_rows_per_second']:>9,.0f} rows/s ({own['write_rows_per_second'] / found['write_rows_per_second']:.1f}x)"
            f"  read {found['read_rows_per_second']:>9,.0f} rows/s ({own['read_rows_per_second'] / found['read_rows_per_second']:.1f}x)"
            f"  {found['bytes_per_row']:6.0f} bytes/row  {found['peak_mib']:6.0f} MiB above the start"
        )
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
