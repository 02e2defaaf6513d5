"""Choosing among questions: hold some out, keep some labels, take a sample.

Each choice ranks questions (or images) by a hash of seed, purpose and id. So it is uniform, the same on every machine,
Python version and run, doesn't depend on the order of the list, and a larger count holds a smaller one.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from masters_edge.common.errors import UserError
from masters_edge.data.records import Question


def _ranked(names: Iterable[str], seed: int, purpose: str) -> list[int]:
    """Positions of `names` in an order that depends on nothing but the names, the seed and the purpose."""
    prefix = f"{purpose}\0{seed}\0"
    keys = [
        (hashlib.sha256((prefix + name).encode("utf-8", "surrogatepass")).digest(), n) for n, name in enumerate(names)
    ]
    return [number for _, number in sorted(keys)]


def _check(count: int, available: int, what: str) -> None:
    if not 0 <= count <= available:
        raise UserError(f"{count} {what} asked for, but there are {available}; ask for 0 to {available}")


def hold_out(questions: Sequence[Question], count: int, seed: int) -> tuple[list[Question], list[Question]]:
    """(questions to train on, questions held out), each in the given order, together all of them.

    Whole images are held out, never one image on both sides, until at least `count` questions are (fewer than one
    image's questions more). Raises UserError where nothing would be left to train on.
    """
    _check(count, len(questions), "held-out questions")
    sizes = Counter(question.image_id for question in questions)
    images = list(sizes)
    held: set[str] = set()
    total = 0
    for number in _ranked(images, seed, "hold out"):
        if total >= count:
            break
        held.add(images[number])
        total += sizes[images[number]]
    if questions and total == len(questions):
        raise UserError(
            f"holding out {count} of {len(questions)} questions would leave none to train on, because an image's "
            f"questions stay together ({len(images)} images); hold out fewer"
        )
    return (
        [question for question in questions if question.image_id not in held],
        [question for question in questions if question.image_id in held],
    )


def keep_labels(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """All questions in order; `count` of those with an answer, chosen uniformly, keep it, the others lose theirs."""
    labelled = [number for number, question in enumerate(questions) if question.answer is not None]
    _check(count, len(labelled), "labels")
    order = _ranked((questions[number].id for number in labelled), seed, "keep labels")
    kept = {labelled[position] for position in order[:count]}
    return [
        question if number in kept or question.answer is None else question.without_answer()
        for number, question in enumerate(questions)
    ]


def sample(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """`count` questions chosen uniformly, in the given order."""
    _check(count, len(questions), "questions")
    chosen = sorted(_ranked((question.id for question in questions), seed, "sample")[:count])
    return [questions[number] for number in chosen]
