"""Copies files to a board and back: what is there stays, what broke off goes on, and every file's content is checked.

Files travel by their content (sha256) into a pool on the board; folders there are made of it (`_board.plan`).
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from masters_edge.benchmarks.devices import _replies
from masters_edge.benchmarks.devices._openssh import Connection
from masters_edge.bundle.manifest import sha256
from masters_edge.common import inside
from masters_edge.common.errors import UserError
from masters_edge.common.files import whole_folder

OnBytes = Callable[[int, int], None]  # done, total
_BLOCK = 1 << 18
_TRIES = 3


@dataclass(frozen=True)
class BoardFile:
    """A file as it shall be on the board: `path` from the folder there; its content is a file here, or given."""

    path: str
    source: Path | bytes = field(repr=False)
    sha256: str
    size: int

    @classmethod
    def of(cls, path: str, source: Path | bytes) -> "BoardFile":
        if isinstance(source, bytes):
            return cls(path, source, hashlib.sha256(source).hexdigest(), len(source))
        return cls(path, source, sha256(source), source.stat().st_size)


def items(folder: Path, *names: str) -> list[BoardFile]:
    """The folder's files, or those of it that are named or lie below a named folder."""
    listed = {Path(name) for name in inside.files(folder)}
    chosen = [file for file in listed if not names or any(file.is_relative_to(name) for name in names)]
    return [BoardFile.of(file.as_posix(), inside.regular(folder, folder / file)) for file in sorted(chosen)]


@dataclass(frozen=True)
class Folder:
    """A folder as it shall be on the board. `only`: with these files and no others."""

    root: str
    files: Sequence[BoardFile]
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
    missing = _wanted(board.call("plan", doing, _replies.Lacking, folders=listed), by_content, board, doing)
    for _ in range(_TRIES):
        if not missing:
            return
        content = _content(missing, by_content, on_bytes)
        files = [file.model_dump() for file in missing]
        found = board.call("receive", doing, _replies.Lacking, content, files=files, folders=listed)
        missing = _wanted(found, by_content, board, doing)
    if missing:
        raise UserError(f"{what} came out wrong on {board.address.login} {_TRIES} times; is its disk in order?")


def _wanted(
    found: _replies.Lacking, by_content: dict[str, BoardFile], board: Connection, doing: str
) -> list[_replies.Missing]:
    """What the board says it lacks; raises UserError where it was offered no such thing."""
    seen: set[str] = set()
    for file in found.missing:
        item = by_content.get(file.sha256)
        if item is None or file.bytes != item.size or file.offset > item.size or file.sha256 in seen:
            raise _replies.odd(board.address.login, doing, "it asks for a file that it wasn't offered")
        seen.add(file.sha256)
    return found.missing


def _content(missing: list[_replies.Missing], by_content: dict[str, BoardFile], on_bytes: OnBytes) -> Iterator[bytes]:
    total = sum(file.bytes for file in missing)
    done = sum(file.offset for file in missing)
    on_bytes(done, total)
    for file in missing:
        item = by_content[file.sha256]
        sent = file.offset
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


def fetch(board: Connection, root: str, folder: Path, *, what: str, names: Collection[str], most: int) -> None:
    """The board's folder `root` as `folder` here: whole and checked, or not at all.

    Raises:
        UserError: it sends a file of another name than `names`, or more than `most` bytes in all; `Lost`.
    """
    doing = f"fetching {what} from it"
    with board.op("fetch", doing, root=root) as channel, whole_folder(folder) as temporary:
        channel.close_input()
        lines = channel.lines()
        listed = channel.read(_replies.Listing, next(lines, b"")).files
        if sum(file.bytes for file in listed) > most:
            raise channel.odd(f"more than {most / 1e6:.0f} MB of figures")
        unasked = [file.path for file in listed if file.path not in names]
        if unasked or len({file.path for file in listed}) != len(listed):
            raise channel.odd(f"the file {_replies.words(repr((unasked or ['twice'])[0]))}, which it wasn't asked for")
        for file in listed:
            path = temporary / file.path
            left = file.bytes
            with path.open("wb") as stream:
                while left and (block := channel.stdout.read(min(left, _BLOCK))):
                    stream.write(block)
                    left -= len(block)
            if left:
                raise channel.failure()
            if sha256(path) != file.sha256:
                raise UserError(f"{file.path} changed while it was fetched; run the same command again")
        for _ in lines:
            pass
