"""What the judge said, on disk, so that a killed run asks it nothing twice: one SQLite file, shared by processes.

SQLite's rollback journal and file locks are used, not its write-ahead log: the latter needs shared memory, which
processes on several machines over one network folder don't have.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from masters_edge.common.errors import UserError

_PATIENCE_S = 120.0  # a write takes milliseconds; a slow network disk may take longer


def key(*what: Any) -> str:
    """Equal for equal `what` (JSON values), on every machine."""
    return hashlib.sha256(json.dumps(what, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


class Cache:
    """`key -> reply` in `folder`/judge.sqlite. Raises UserError where the file can't be used."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "judge.sqlite"
        with self._usable():
            self._file = sqlite3.connect(self.path, timeout=_PATIENCE_S, isolation_level="IMMEDIATE")
            with self._file:
                self._file.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID")

    def get(self, key: str) -> str | None:
        """The reply that was kept, or None."""
        with self._usable():
            row = self._file.execute("SELECT text FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def put(self, replies: Iterable[tuple[str, str]]) -> None:
        """Keep (key, reply) of some, all or none; the first of equal keys stays."""
        readable = ((key, text.encode(errors="replace").decode()) for key, text in replies)  # no lone surrogates
        with self._usable(), self._file:
            self._file.executemany("INSERT OR IGNORE INTO replies VALUES (?, ?)", readable)

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"what the judge says can't be kept in {self.path} ({error}); make room and the folder writable, or "
                "delete the file where it is damaged (the judge is then asked again)"
            ) from None
