"""From the value in a row to a reference to its image, and the check of all images before a long run.

Values read: a path (or file:// URI), a data: URI or bare base64, raw bytes, the struct {bytes, path} of Hugging Face
data sets, {"url": ...} as OpenAI-style chat has it, or a list of exactly one of these. Nothing is fetched from the web.
"""

import base64
import binascii
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from masters_edge.common import cache
from masters_edge.common.errors import UserError
from masters_edge.common.files import at_home, read_json, write_json
from masters_edge.data.records import Question, open_image
from masters_edge.data.rows import Rows

# How base64 of PNG, JPEG, GIF, WebP, TIFF begins; base64 has no ".", which file names of images nearly always have.
BASE64_BEGINNINGS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "SUkq", "TU0AK")


class MissingImage(UserError):
    """A row's image is not there; `brief` is the sentence without its remedy."""

    def __init__(self, brief: str, remedy: str) -> None:
        super().__init__(f"{brief}; {remedy}")
        self.brief = brief


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image inside a data set: which row, and the keys that lead to it (e.g. "images", 0)."""

    rows: Rows = field(repr=False, compare=False)
    row: int
    keys: tuple[str | int, ...]
    size: int
    digest: str

    def read_bytes(self) -> bytes:
        value: Any = self.rows[self.row]
        try:
            for key in self.keys:
                value = value[key]
        except (KeyError, IndexError, TypeError):
            value = None
        found = embedded(value, str(self))
        if found is None or len(found) != self.size:
            raise UserError(f"{self}: the image is no longer the one read before; don't change the data during a run")
        return found

    def __str__(self) -> str:
        return self.rows.place(self.row)


class ImageFinder:
    """Turns rows' values into (image, image_id).

    Relative paths resolve against `root`. A file's image_id is its path relative to `root`, after `name`; an embedded
    image's is the hash of its bytes, so the same picture stored in many rows counts as one.
    """

    def __init__(self, rows: Rows, root: Path, name: str) -> None:
        self.rows = rows
        self.root = Path(os.path.abspath(root))
        self.name = name
        self._absent: dict[Path, str] = {}

    def find(self, value: Any, index: int, keys: tuple[str | int, ...]) -> tuple[Path | StoredImage, str]:
        """`value` stands in row `index` under `keys`; raises a UserError where it is no image, a `MissingImage` where
        it names one that isn't there."""
        place = self.rows.place(index)
        if isinstance(value, list | tuple):
            if len(value) != 1:
                raise UserError(
                    f"{place}, {keys[0]!r}: {len(value)} images for one question; one is read: "
                    "split the question or leave it out"
                )
            return self.find(value[0], index, (*keys, 0))
        found = embedded(value, place)
        if found is not None:
            # blake2b is the fastest hash in hashlib without special instructions.
            digest = hashlib.blake2b(found, digest_size=16).hexdigest()
            return StoredImage(self.rows, index, keys, len(found), digest), f"content/{digest}"
        path = self._path(value, place, keys)
        # The data set's own name in front keeps image_ids apart when two data sets are mixed.
        inside = path.is_relative_to(self.root)
        return path, f"{self.name}/{path.relative_to(self.root).as_posix()}" if inside else path.as_posix()

    def _path(self, value: Any, place: str, keys: tuple[str | int, ...]) -> Path:
        text = _reference(value)
        if not isinstance(text, str) or not text.strip():
            raise UserError(
                f"{place}, {keys[0]!r}: no image; expected a path, a data: URI or embedded bytes: "
                "add it or leave the row out"
            )
        if text.startswith(("http://", "https://")):
            raise MissingImage(
                f"{place}, {keys[0]!r}: the image is a web address ({text[:80]}), which isn't fetched",
                "download the images and give their paths",
            )
        if text.startswith("file:"):
            text = url2pathname(urlparse(text).path)
        path = self._inside(text)
        others = [text.replace("\\", "/")] if "\\" in text and os.sep == "/" else []  # written on Windows
        others += [str(at_home(text))] if text.startswith("~") else []  # unless a file is called so
        why_not = self._why_not(path)
        for other in map(self._inside, others if why_not else ()):
            if not self._why_not(other):
                return other
        if why_not:
            raise MissingImage(
                f"{place}, {keys[0]!r}: {why_not}",
                "mend the path or leave the row out "
                "(relative paths start at the metadata file's folder, or at image_root where it is set)",
            )
        return path

    def _inside(self, text: str) -> Path:
        return Path(os.path.normpath(self.root / text))

    def _why_not(self, path: Path) -> str:
        """Why the path is no image file that can be looked at; empty where it is one."""
        if path not in self._absent:
            shown = str(path) if len(str(path)) <= 300 else f"{str(path)[:300]}..."
            try:
                self._absent[path] = "" if path.is_file() else f"there is no image file {shown}"
            except PermissionError as error:
                self._absent[path] = f"the image file {shown} can't be looked at ({error.strerror})"
            except (OSError, ValueError):  # a name too long, or with a zero byte, is no file
                self._absent[path] = f"there is no image file {shown}"
        return self._absent[path]


def _reference(value: Any) -> Any:
    """The path or address in a struct such as {"path": ...} or {"url": ...}."""
    if isinstance(value, dict):
        return next((value[key] for key in ("path", "url", "image") if value.get(key)), None)
    return value


def embedded(value: Any, place: str) -> bytes | None:
    """The encoded bytes where the value holds them itself; None where it points to a file instead."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value) or None
    if isinstance(value, dict):
        if value.get("bytes"):
            return embedded(value["bytes"], place)
        return embedded(_reference(value), place)
    if not isinstance(value, str):
        return None
    text = value.strip()
    if text.startswith("data:"):
        header, _, text = text.partition(",")
        if not header.endswith(";base64"):
            raise UserError(
                f"{place}: expected 'data:image/png;base64,...', found {header[:60]!r}; encode it as base64"
            )
    elif not (len(text) >= 64 and text.startswith(BASE64_BEGINNINGS) and "." not in text):
        return None
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{place}: the image isn't valid base64 ({error}); encode the file again") from None


def verify_images(questions: Sequence[Question], on_progress: Callable[[int, int], None] | None = None) -> None:
    """Open and decode every distinct image once; one UserError names up to five broken ones and their number.

    `on_progress(done, total)` is called after each image.
    """
    distinct = list(first_by_image(questions))
    broken = list(_broken(distinct, on_progress or (lambda done, total: None)).values())
    if broken:
        raise UserError(
            f"{len(broken)} of {len(distinct)} images can't be used: {some(broken)}; "
            "replace them with whole PNG or JPEG files, leave their questions out, or set `on_error: skip`"
        )


def broken_images(questions: Sequence[Question]) -> dict[str, str]:
    """A sentence for each image that can't be decoded, by image_id.

    What was found is kept in the user's cache until a file changes, so that a run which goes on decodes nothing twice.
    """
    from masters_edge.common.display import progress  # nothing that a board's measuring process needs

    distinct = list(first_by_image(questions))
    total = hashlib.sha256(b"masters-edge pictures 1\n")
    for question in distinct:
        total.update(f"{question.image_id}\0{_state(question)}\n".encode("utf-8", "surrogatepass"))
    known = cache.folder() / "pictures" / f"{total.hexdigest()}.json"
    try:
        return dict(read_json(known))
    except (OSError, ValueError):  # not there, or not whole
        pass
    with progress("checking images", len(distinct)) as bar:
        found = _broken(distinct, lambda done, _: bar(completed=done))
    with contextlib.suppress(OSError):  # a cache that can't be written is asked again in vain
        write_json(known, found)
    return found


def _state(question: Question) -> str:
    """What changes once the image does."""
    image = question.image
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    if not isinstance(image, Path):
        return str(image.size)  # one that stands in the data, whose id is its content's hash
    try:
        at = image.stat()
    except OSError as error:
        return f"{image} {error.errno}"
    return f"{image} {at.st_size} {at.st_mtime_ns}"


def _broken(distinct: Sequence[Question], on_progress: Callable[[int, int], None]) -> dict[str, str]:
    found: dict[str, str] = {}
    for done, question in enumerate(distinct, 1):
        try:
            open_image(question)
        except UserError as error:
            found[question.image_id] = str(error).partition(";")[0]
        on_progress(done, len(distinct))
    return found


def some(sentences: Sequence[str], most: int = 5) -> str:
    """The first of them, and how many more there are."""
    more = f"; and {len(sentences) - most} more" if len(sentences) > most else ""
    return "; ".join(sentences[:most]) + more


def first_by_image(questions: Iterable[Question]) -> Iterable[Question]:
    """The first question about each image, in order."""
    seen: set[str] = set()
    for question in questions:
        if question.image_id not in seen:
            seen.add(question.image_id)
            yield question
