"""The job folder: what one subject is to be asked, and the raw files that answering leaves; portable as it is.

    job.json         module, subject, threads, backend, metric, warm_up, latency_count, cold_starts, exactly, cases,
                     sustain_s, schema_version (written by `protocol.prepare`, read by `worker`)
    questions.jsonl  id, text, image (relative), image_id, answers; the latency sample first
    images/          the pictures, those of the cases included
    raw/             choice.json (which backend `auto` took), cold.jsonl, facts.json, latency.json, cases.jsonl,
                     sustained.jsonl, answers.jsonl, done.json; and where something beside the measuring process
                     knows more: conditions.json (over latency.json's), python.json (`results.SameAsPython`)

A `.jsonl` file grows line by line, and what a killed process left of its last line is dropped; a `.json` file and
sustained.jsonl are written whole. Only the standard library is imported: a board's measuring process reads this first.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from masters_edge.common.files import whole_file

SCHEMA_VERSION = 1

JOB, QUESTIONS, IMAGES, RAW = "job.json", "questions.jsonl", "images", "raw"
CHOICE, COLD, FACTS, LATENCY, CASES = "choice.json", "cold.jsonl", "facts.json", "latency.json", "cases.jsonl"
SUSTAINED, ANSWERS, DONE = "sustained.jsonl", "answers.jsonl", "done.json"
CONDITIONS, PYTHON = "conditions.json", "python.json"
LEFT = frozenset({CHOICE, COLD, FACTS, LATENCY, CASES, SUSTAINED, ANSWERS, DONE})  # in raw/ by a measuring process


def read_json(path: Path) -> Any:
    """The file's content; None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    with whole_file(path, alone=True) as temporary:
        temporary.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a .jsonl file; none where there is no such file. What follows a torn line is not read."""
    return _whole_rows(path)[0]


def mend_rows(path: Path) -> list[dict[str, Any]]:
    """As `read_rows`, and cuts off what a killed process left behind the last whole line."""
    rows, length = _whole_rows(path)
    if path.exists() and path.stat().st_size > length:
        with path.open("rb+") as file:
            file.truncate(length)
    return rows


def append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add lines and hand them to the operating system at once."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(text.encode("utf-8", "replace"))


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """The whole file or none of it."""
    with whole_file(path, alone=True) as temporary:
        append_rows(temporary, rows)
        temporary.touch()


def _whole_rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows up to the first torn line, and the length in bytes of what they take."""
    rows: list[dict[str, Any]] = []
    length = 0
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    for line in content.splitlines(keepends=True):
        try:
            if not line.endswith(b"\n"):
                break
            rows.append(json.loads(line))
        except ValueError:
            break
        length += len(line)
    return rows, length
