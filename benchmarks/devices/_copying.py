"""Copies files to a board and back: what is there stays, what broke off goes on, and every file's content is checked.

Files travel by their content (sha256) into a pool on the board; folders there are made of it (`_board.plan`).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masters_edge.benchmarks.devices._openssh import Connection
from masters_edge.bundle.manifest import sha256
from masters_edge.common.errors import UserError
from masters_edge.common.files import whole_folder

OnBytes = Callable[[int, int], None]  # done, total
_BLOCK = 1 << 18
_TRIES = 3


@dataclass(frozen=True)
class Item:
    """A file as it shall be on the board: `path` from the folder there; its content is a file here, or given."""

    path: str
    source: Path | bytes = field(repr=False)
    sha256: str
    size: int

    @classmethod
    def of(cls, path: str, source: Path | bytes) -> "Item":
        if isinstance(source, bytes):
            return cls(path, source, hashlib.sha256(source).hexdigest(), len(source))
        return cls(path, source, sha256(source), source.stat().st_size)


def items(folder: Path, *names: str) -> list[Item]:
    """The folder's files, or those of it that are named or lie below a named folder."""
    chosen = [folder / name for name in names] or [folder]
    files = {file for path in chosen for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()}
    return [Item.of(file.relative_to(folder).as_posix(), file) for file in sorted(files)]


@dataclass(frozen=True)
class Folder:
    """A folder as it shall be on the board. `only`: with these files and no others."""

    root: str
    files: Sequence[Item]
    only: bool = False


def upload(
    board: Connection,
    folders: Sequence[Folder],
    *,
    what: str,
    on_bytes: OnBytes = lambda done, total: None,
) -> None:
    """Make these folders on the board, every file checked there.

    Raises:
        UserError: a file here changed meanwhile, the board's disk is full, or content keeps arriving broken; `Lost`.
    """
    listed = [
        {
            "root": folder.root,
            "only": folder.only,
            "files": [{"path": item.path, "sha256": item.sha256, "bytes": item.size} for item in folder.files],
        }
        for folder in folders
    ]
    by_content = {item.sha256: item for folder in folders for item in folder.files}
    doing = f"copying {what} to it"
    missing = board.call("plan", doing, folders=listed)["missing"]
    for _ in range(_TRIES):
        if not missing:
            return
        content = _content(missing, by_content, on_bytes)
        missing = board.call("receive", doing, content, files=missing, folders=listed)["missing"]
    if missing:
        raise UserError(f"{what} came out wrong on {board.address.login} {_TRIES} times; is its disk in order?")


def _content(missing: list[dict[str, Any]], by_content: dict[str, Item], on_bytes: OnBytes) -> Iterator[bytes]:
    total = sum(file["bytes"] for file in missing)
    done = sum(file["offset"] for file in missing)
    on_bytes(done, total)
    for file in missing:
        item = by_content[file["sha256"]]
        sent = file["offset"]
        for block in _blocks(item.source, sent):
            sent += len(block)
            done += len(block)
            if sent > item.size:
                break
            yield block
            on_bytes(done, total)
        if sent != item.size:
            raise UserError(f"{item.path} changed while it was copied; run the same command again")


def _blocks(source: Path | bytes, offset: int) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source[offset:]
        return
    with source.open("rb") as stream:
        stream.seek(offset)
        while block := stream.read(_BLOCK):
            yield block


def fetch(board: Connection, root: str, folder: Path, *, what: str) -> None:
    """The board's folder `root` as `folder` here: whole and checked, or not at all."""
    doing = f"fetching {what} from it"
    with board.op("fetch", doing, root=root) as channel, whole_folder(folder) as temporary:
        channel.close_input()
        lines = channel.lines()
        for file in json.loads(next(lines))["files"]:
            path = temporary.joinpath(*file["path"].split("/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            left = file["bytes"]
            with path.open("wb") as stream:
                while left and (block := channel.stdout.read(min(left, _BLOCK))):
                    stream.write(block)
                    left -= len(block)
            if left:
                raise channel.failure()
            if sha256(path) != file["sha256"]:
                raise UserError(f"{file['path']} changed while it was fetched; run the same command again")
        for _ in lines:
            pass
