"""Write files and folders whole or not at all: to a temporary name beside the target, then renamed.

A temporary name has a lock beside it, held as long as somebody writes there. So what a killed process left is told from
what another one is writing, in whatever container or on whatever machine that shares the folder. A process id can't
tell: in a container every command has the id 1.
"""

import contextlib
import errno
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from masters_edge.common.errors import UserError

# A full disk, a full quota, a limit on file sizes: as errno, and as libraries in Rust and C++, SQLite and torch's
# writer of .pt files spell them.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_SIGNS = (
    "No space left on device",
    "quota exceeded",
    "File too large",
    "database or disk is full",
    "PytorchStreamWriter failed writing file",
    "unexpected pos ",
)


Fields = TypeVar("Fields")
PART, _LOCK = ".part", ".lock"


def disk_full(error: BaseException) -> bool:
    """Whether this, or what it came from, is a full disk, which surfaces as each library's own exception type."""
    seen: BaseException | None = error
    while seen is not None:
        if getattr(seen, "errno", None) in _FULL or any(sign in str(seen) for sign in _FULL_SIGNS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses in the block becomes a UserError that names `path`; a full disk stays what it is."""
    try:
        yield
    except OSError as error:
        if error.errno is None or disk_full(error):  # a lock that another holds is an OSError without a number
            raise
        raise UserError(
            f"{path} can't be written ({error.strerror or error}); name another place, or mend this one"
        ) from None


@contextlib.contextmanager
def whole_file(path: Path, alone: bool = False) -> Iterator[Path]:
    """A temporary path to write to; renamed to `path` when the block ends well, removed when it doesn't.

    `alone`: the caller holds the folder, which nobody sweeps. It spares the lock, and with it some MB in a process
    whose memory is measured.

    Raises:
        UserError: `path` can't be written.
    """
    with _parts(path, alone) as part:
        try:
            yield part.new
            with writing(path):
                with part.new.open("rb+") as file:  # on the disk before it takes the old one's place
                    os.fsync(file.fileno())
                part.new.replace(path)
        finally:
            part.new.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; takes the place of `path` when the block ends well, removed when it doesn't.

    Raises:
        UserError: `path` can't be written.
    """
    sweep(path.parent)
    with _parts(path) as part:
        try:
            with writing(path):
                part.new.mkdir()
            yield part.new
            with writing(path):
                if path.exists():
                    path.rename(part.old)
                try:
                    part.new.rename(path)
                except OSError:
                    if part.old.exists():
                        part.old.rename(path)
                    raise
        finally:
            shutil.rmtree(part.new, ignore_errors=True)
            shutil.rmtree(part.old, ignore_errors=True)


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` and named after it, removed when the block ends."""
    sweep(path.parent)
    with _parts(path) as part:
        try:
            with writing(path):
                part.new.mkdir()
            yield part.new
        finally:
            shutil.rmtree(part.new, ignore_errors=True)


class _Parts(NamedTuple):
    """Temporary names for what will be a path, and for what was it before."""

    new: Path
    old: Path


@contextlib.contextmanager
def _parts(path: Path, alone: bool = False) -> Iterator[_Parts]:
    """Temporary names beside `path`, ours as long as the block lasts."""
    token = f"{os.getpid()}-{secrets.token_hex(4)}"  # the process id is for people who look
    names = _Parts(*(path.with_name(f".{path.name}{what}.{token}{PART}") for what in ("", "-old")))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if alone:
        yield names
        return
    from filelock import FileLock

    lock_file = path.with_name(f".{token}{PART}{_LOCK}")
    lock = FileLock(lock_file)
    with writing(path):
        lock.acquire()
        while not lock_file.exists():  # swept between its making and its locking
            lock.release()
            lock.acquire()
    try:
        yield names
    finally:
        _let_go(lock)


def sweep(folder: Path, name: str = "*") -> None:
    """Remove what dead processes left half-written directly below `folder`: of the file or folder `name`, or of all."""
    for left in [*folder.glob(f".{name}.*{PART}"), *folder.glob(f".*{PART}{_LOCK}")]:
        with contextlib.suppress(OSError):  # of another user, or gone since
            _sweep_one(left)


def _sweep_one(left: Path) -> None:
    from filelock import FileLock, Timeout

    token = left.name.removesuffix(_LOCK).split(".")[-2]
    lock = FileLock(left.with_name(f".{token}{PART}{_LOCK}"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return  # somebody is writing it
    try:
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    finally:
        _let_go(lock)


def _let_go(lock: Any) -> None:
    """Release a lock that nobody will take again: its name is never used twice."""
    lock.release()
    with contextlib.suppress(OSError):
        Path(lock.lock_file).unlink()


def is_left_over(path: Path) -> bool:
    """Whether a name is one that stands here only while something is written."""
    return path.name.startswith(".") and path.name.endswith((PART, PART + _LOCK))


def at_home(text: str) -> Path:
    """The path, `~` and `~user` at its start as the shell reads them; of a user who isn't known here, a plain name."""
    return Path(os.path.expanduser(text))


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json_of(value, indent=2) + "\n")


def json_of(value: Any, indent: int | None = None) -> str:
    """As JSON; a number that is none (NaN, infinity) is null, since Python would write what no other reader takes."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_text(path: Path, most: int) -> str:
    """A regular file's text in UTF-8.

    Raises:
        OSError: it can't be read, is no regular file (a FIFO, a device), or has more than `most` bytes.
        ValueError: it is no UTF-8.
    """
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(file, "rb") as stream:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        content = stream.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
    return content.decode("utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_fields(path: Path, version: int, kind: type[Fields]) -> Fields:
    """A dataclass whose fields `write_json` wrote, perhaps among others; what can be made again.

    Raises:
        UserError: the file is damaged or of another version.
    """
    from pydantic import TypeAdapter, ValidationError

    remedy, dataclass = "delete it, and the same command makes it again", cast(Any, kind)
    names = [field.name for field in fields(dataclass)]
    found = read_record(path, version, remedy)
    try:
        return TypeAdapter(kind).validate_python({name: found[name] for name in names})
    except KeyError as error:
        raise UserError(f"{path} is damaged: it has no {error.args[0]}; {remedy}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path} is damaged at {'.'.join(map(str, first['loc']))}: {first['msg']}; {remedy}") from None


def read_record(
    path: Path, version: int | None, remedy: str, fields: Mapping[str, type | tuple[type, ...]] = {}
) -> dict[str, Any]:
    """A JSON object that `write_json` wrote.

    Args:
        version: its `schema_version`; None where it has none.
        remedy: what to do where it is damaged.
        fields: what must be in it, with its type.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is damaged or of another version.
    """
    try:
        found = read_json(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read ({error}); {remedy}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object; {remedy}")
    if version is not None and found.get("schema_version") != version:
        raise UserError(
            f"{path} has schema version {found.get('schema_version')}, this masters-edge reads {version}; {remedy}"
        )
    wrong = [name for name, kind in fields.items() if not isinstance(found.get(name), kind)]
    if wrong:
        raise UserError(f"{path} is damaged: {' and '.join(wrong)} can't be read in it; {remedy}")
    return found
