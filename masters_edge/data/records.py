"""The one record every reader yields: an image, a question about it, and the answer where somebody knows it.

An image is carried as a light reference (a file, or a place in a data set) and decoded only by `open_image`.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import ExifTags, Image, UnidentifiedImageError

from masters_edge.common.errors import UserError
from masters_edge.common.pictures import to_rgb, upright

# What Pillow's decoders raise on damaged files, beyond its own UnidentifiedImageError.
BROKEN = (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, struct.error)


@runtime_checkable
class EmbeddedImage(Protocol):
    """An image whose encoded bytes stand inside a data set (Parquet, Arrow, base64 in JSON) and are fetched on demand.

    `str()` of it says where it stands, as an error message needs it.
    """

    @property
    def size(self) -> int:
        """Encoded bytes."""

    def read_bytes(self) -> bytes:
        """The encoded bytes (PNG, JPEG, ...)."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one image.

    `id` is unique within its data set and stable from run to run. `image` is a file, the encoded bytes (PNG, JPEG)
    of one, or a reference into a data set. `image_id` is equal for questions about the same image. `answer` is None
    where no label is known. `answers` holds every accepted answer where the data set gives several (VQAv2, ChartQA,
    DocVQA: `answer` is then the most frequent of them); otherwise it is empty. `metric` names the rule that scores
    responses to it (`benchmarks.metrics`, or `judge`); None: whatever the recipe or the suite says.
    """

    id: str
    text: str
    image: Path | bytes | EmbeddedImage
    image_id: str
    answer: str | None = None
    answers: tuple[str, ...] = ()
    metric: str | None = None

    @property
    def accepted(self) -> tuple[str, ...]:
        """Every answer that counts as right; empty where no label is known."""
        return self.answers or (() if self.answer is None else (self.answer,))

    def without_answer(self) -> "Question":
        """The question alone, and by what rule answers to it are scored."""
        return replace(self, answer=None, answers=())


def open_image(question: Question) -> Image.Image:
    """The question's image upright, on white, as RGB; or a UserError naming question and file."""
    with _opened(question) as image:
        try:
            return to_rgb(upright(image))
        except UserError as error:
            where = "the data set" if isinstance(question.image, bytes) else f"{question.image}"
            raise UserError(f"question {question.id}: the image in {where} can't be used: {error}") from None


def image_size(question: Question) -> tuple[int, int]:
    """Width and height of the upright image, from its header alone; or a UserError naming question and file.

    EXIF data count where the header has them, as in JPEG and WebP; a PNG with them at its end is taken as it lies.
    """
    with _opened(question) as image:
        turned = "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return (image.height, image.width) if turned else image.size


@contextmanager
def _opened(question: Question) -> Iterator[Image.Image]:
    source = question.image
    where = "the data set" if isinstance(source, bytes) else f"{source}"
    try:
        if isinstance(source, Path):
            opened = Image.open(source)
        else:
            opened = Image.open(io.BytesIO(source if isinstance(source, bytes) else source.read_bytes()))
        with opened as image:
            yield image
    except FileNotFoundError:
        raise UserError(
            f"question {question.id}: there is no image file {where}; mend the path or leave the question out"
        ) from None
    except (*BROKEN, Image.DecompressionBombError) as error:
        reason = "it is no image, or its beginning is damaged" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(
            f"question {question.id}: the image in {where} can't be read ({reason}); "
            "replace it with a whole PNG or JPEG, or leave the question out"
        ) from None
