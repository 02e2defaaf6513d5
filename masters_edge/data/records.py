"""The one record every reader yields: an image, a question about it, and the answer where somebody knows it."""

import io
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from masters_edge.errors import UserError


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one image.

    `id` is unique within its data set and stable from run to run. `image` is a file or the encoded bytes (PNG, JPEG)
    of one. `image_id` is equal for questions about the same image. `answer` is None where no label is known.
    """

    id: str
    text: str
    image: Path | bytes
    image_id: str
    answer: str | None = None

    def without_answer(self) -> "Question":
        return replace(self, answer=None)


def open_image(question: Question) -> Image.Image:
    """The question's image as RGB, or a UserError that names the question and the file."""
    source = question.image
    where = f"{source}" if isinstance(source, Path) else "the data set"
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise UserError(
            f"question {question.id}: there is no image file {source}; mend the path or leave the question out"
        ) from None
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"question {question.id}: the image in {where} can't be read ({error}); "
            "replace it with a whole PNG or JPEG, or leave the question out"
        ) from None
