"""A fingerprint of a data set: whether a run goes on with the questions it began with."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from masters_edge.common.errors import UserError
from masters_edge.data.records import Question


def fingerprint(questions: Iterable[Question]) -> str:
    """sha256 (hex) over ids, texts, answers, metrics, image ids and the images' sizes in bytes, in order.

    Streams, and looks at a file's size once for each image, never at its pixels: a folder moved elsewhere keeps its
    fingerprint, and a file repainted to exactly the same size goes unseen. Embedded images count with their content,
    since their image id is its hash.
    """
    total = hashlib.sha256(b"masters-edge questions 1\n")
    sizes: dict[Path, int] = {}
    for question in questions:
        image = question.image
        if isinstance(image, Path):
            if image not in sizes:
                try:
                    sizes[image] = image.stat().st_size
                except OSError as error:
                    raise UserError(
                        f"question {question.id}: the image {image} can't be read ({error.strerror}); "
                        "mend the path or leave the question out"
                    ) from None
            size = sizes[image]
        else:
            size = len(image) if isinstance(image, bytes) else image.size
        fields = [question.id, question.text, question.answer, question.image_id, str(size), *question.answers]
        if question.metric is not None:  # so that data without one keep the fingerprint they had
            fields.append(f"metric {question.metric}")
        # Every field is preceded by its length, so that no two records run into the same bytes; -1 is "no answer".
        for field in fields:
            data = b"" if field is None else field.encode("utf-8", "surrogatepass")
            total.update(b"%d:%b" % (-1 if field is None else len(data), data))
        total.update(b"\n")
    return total.hexdigest()
