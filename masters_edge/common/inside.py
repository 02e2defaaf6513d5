"""Files that a manifest, an index or a board names: opened only where they lie inside their folder.

Such names come from strangers. A name is relative, with forward slashes, and climbs nowhere; what it names is a regular
file, no FIFO and no device, and reached by no link that leads out of the folder. A snapshot in the cache of
huggingface_hub is made of links to the `blobs` beside it, and those are as good as files.
"""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from masters_edge.common.errors import UserError
from masters_edge.common.plain import line

AGAIN = "copy or export the bundle again"
LONGEST_NAME, LONGEST_PART = 1024, 255  # characters of a whole name, and of one part of it
_ODD = set('\\:*?"<>|')  # no part of a name on Windows; onnxruntime's name of a place in memory has a *
MOST_FILES = 100_000  # in one folder


def parts(name: object) -> tuple[str, ...] | None:
    """The parts of a relative name that stays where it is put; None for any other."""
    if not isinstance(name, str) or len(name) > LONGEST_NAME or _ODD & set(name) or name != line(name):
        return None
    found = tuple(name.split("/"))
    return None if any(part in ("", ".", "..") or len(part) > LONGEST_PART for part in found) else found


def checked(folder: Path, name: object, advice: str = AGAIN) -> tuple[str, ...]:
    """The parts of a name; raises UserError where it isn't one of a file inside the folder."""
    found = parts(name)
    if found is None:
        raise UserError(f"{folder}: {line(repr(name), 80)} is no name of a file inside the folder; {advice}")
    return found


def place(folder: Path, name: object, advice: str = AGAIN) -> Path:
    """Where the regular file of that name really lies.

    Raises:
        UserError: no such name, no such file, a link out of the folder, or a FIFO, device or folder.
    """
    return regular(folder, folder.joinpath(*checked(folder, name, advice)), advice)


def regular(folder: Path, path: Path, advice: str = AGAIN, linked: bool = False) -> Path:
    """Where a file below the folder, of whatever name, really lies; raises as `place`. `linked`: links may lead out."""
    name = line(path.relative_to(folder).as_posix(), 100)
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except FileNotFoundError:
        raise UserError(f"{folder}: the file {name} is missing; {advice}") from None
    except (OSError, RuntimeError) as error:  # a link to itself
        raise UserError(f"{folder}: the file {name} can't be reached ({_reason(error)}); {advice}") from None
    if not linked and not _within(real, folder):
        raise UserError(f"{folder}: {name} is a link out of the folder; put the file itself there, or {advice}")
    if not stat.S_ISREG(mode):
        raise UserError(f"{folder}: {name} is no regular file, but {_kind(mode)}; {advice}")
    return real


def subfolder(folder: Path, name: object, advice: str = AGAIN) -> Path:
    """As `place`, for a folder in it: no file below leads out either."""
    path = folder.joinpath(*checked(folder, name, advice))
    if not path.is_dir() or not _within(path.resolve(), folder):
        raise UserError(f"{folder}: the folder {name} is missing; {advice}")
    for _ in files(path, advice):
        pass
    return path


def opened(folder: Path, name: object, advice: str = AGAIN) -> BinaryIO:
    """The file, open for reading in bytes; raises as `place`."""
    real = place(folder, name, advice)
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        file = os.open(real, flags)
    except OSError as error:
        raise UserError(f"{folder}: the file {name} can't be read ({_reason(error)}); {advice}") from None
    if not stat.S_ISREG(os.fstat(file).st_mode):  # exchanged since
        os.close(file)
        raise UserError(f"{folder}: {name} is no regular file; {advice}")
    return os.fdopen(file, "rb")


def read(folder: Path, name: object, most: int, advice: str = AGAIN) -> bytes:
    """The file's content; raises UserError as `place`, and where it has more than `most` bytes."""
    with opened(folder, name, advice) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise UserError(f"{folder}: the file {name} has more than {most:,} bytes, far more than it needs; {advice}")
    return content


def read_json(folder: Path, name: object, most: int, advice: str = AGAIN) -> Any:
    """The file's content, parsed; raises UserError as `read`, and where it is no JSON."""
    content = read(folder, name, most, advice)
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{folder / str(name)} can't be read ({line(str(error), 200)}); {advice}") from None


def files(folder: Path, advice: str = AGAIN) -> Iterator[str]:
    """Names of all files below the folder, relative, with forward slashes, folder by folder in sorted order.

    Raises:
        UserError: for the first link that leads out, FIFO, device, linked folder, or odd name, and for too many files.
    """
    count = 0
    for at, folders, names in os.walk(folder):
        folders.sort()
        for linked in (one for one in folders if Path(at, one).is_symlink()):
            name = Path(at, linked).relative_to(folder).as_posix()
            raise UserError(f"{folder}: {line(name)} is a linked folder; put the folder itself there, or {advice}")
        for one in sorted(names):
            name = Path(at, one).relative_to(folder).as_posix()
            regular(folder, Path(at, one), advice)
            yield name
            if (count := count + 1) > MOST_FILES:
                raise UserError(f"{folder} has more than {MOST_FILES:,} files; {advice}")


def _within(real: Path, folder: Path) -> bool:
    """Whether a resolved path lies in the folder, or among the blobs that the folder's snapshot is made of."""
    home = folder.resolve()
    if real.is_relative_to(home):
        return True
    snapshot = next((one for one in (home, *home.parents) if one.parent.name == "snapshots"), None)
    return snapshot is not None and real.parent == snapshot.parent.parent / "blobs"


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a FIFO" if stat.S_ISFIFO(mode) else "a device or socket"


def _reason(error: OSError | RuntimeError) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
