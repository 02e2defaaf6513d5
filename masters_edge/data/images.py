"""From the value in a row to a reference to its image, and the check of all images before a long run.

Values read: a path (or file:// URI), a data: URI or bare base64, raw bytes, the struct {bytes, path} of Hugging Face
data sets, {"url": ...} as OpenAI-style chat has it, or a list of exactly one of these. Nothing is fetched from the web.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from masters_edge.common.errors import UserError
from masters_edge.data.records import Question, open_image
from masters_edge.data.rows import Rows

# How base64 of PNG, JPEG, GIF, WebP, TIFF begins; base64 has no ".", which file names of images nearly always have.
BASE64_BEGINNINGS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "SUkq", "TU0AK")


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
        self._present: dict[Path, bool] = {}

    def find(self, value: Any, index: int, keys: tuple[str | int, ...]) -> tuple[Path | StoredImage, str]:
        """`value` stands in row `index` under `keys`; raises a UserError where it is no image."""
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
            raise UserError(
                f"{place}, {keys[0]!r}: the image is a web address ({text[:80]}), which isn't fetched; "
                "download the images and give their paths"
            )
        if text.startswith("file:"):
            text = url2pathname(urlparse(text).path)
        path = self._inside(text)
        if not self._is_file(path) and "\\" in text and os.sep == "/":  # written on Windows
            path = self._inside(text.replace("\\", "/"))
        if not self._is_file(path):
            shown = str(path) if len(str(path)) <= 300 else f"{str(path)[:300]}..."
            raise UserError(
                f"{place}, {keys[0]!r}: there is no image file {shown}; mend the path or leave the row out "
                "(relative paths start at the metadata file's folder, or at image_root where it is set)"
            )
        return path

    def _inside(self, text: str) -> Path:
        return Path(os.path.normpath(self.root / Path(text).expanduser()))

    def _is_file(self, path: Path) -> bool:
        if path not in self._present:
            try:
                self._present[path] = path.is_file()
            except (OSError, ValueError):  # a name too long, or with a zero byte, is no file
                self._present[path] = False
        return self._present[path]


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
    broken: list[str] = []
    for done, question in enumerate(distinct, 1):
        try:
            open_image(question)
        except UserError as error:
            broken.append(str(error).partition(";")[0])
        if on_progress:
            on_progress(done, len(distinct))
    if broken:
        more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
        raise UserError(
            f"{len(broken)} of {len(distinct)} images can't be used: {'; '.join(broken[:5])}{more}; "
            "replace them with whole PNG or JPEG files, or leave their questions out"
        )


def first_by_image(questions: Iterable[Question]) -> Iterable[Question]:
    """The first question about each image, in order."""
    seen: set[str] = set()
    for question in questions:
        if question.image_id not in seen:
            seen.add(question.image_id)
            yield question
