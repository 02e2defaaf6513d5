"""Digests of a folder's files, written beside them: whether they still are what was written.

They find accidents (bits that flipped, files that were cut or lost), not forgeries.
"""

from pathlib import Path

import xxhash

from masters_edge.common.files import read_json, write_json

MARK = "complete"


def seal(folder: Path) -> None:
    """Mark a folder as whole, with the digests of its files as they are now."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARK)
    write_json(folder / MARK, {path.relative_to(folder).as_posix(): _digest(path) for path in files})


def damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder; None where nothing is, where it isn't sealed, or where the mark is empty (a
    masters-edge that kept no digests wrote it)."""
    mark = folder / MARK
    if not mark.exists():
        return None
    try:
        written = dict(read_json(mark)) if mark.stat().st_size else {}
    except (OSError, ValueError, TypeError):
        return f"its mark `{MARK}` can't be read"
    for name, digest in written.items():
        try:
            if _digest(folder / name) != digest:
                return f"{name} is not what was written"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return None


def _digest(path: Path) -> str:
    total = xxhash.xxh3_128()  # costs less than the reading does
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            total.update(block)
    return total.hexdigest()
