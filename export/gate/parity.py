"""The gate every export passes through: does the exported student compute what PyTorch computes?

On real samples, at exact arithmetic, with the same integers: the largest relative error of each part, then greedy
answers token by token, end to end through the torch-free runtime. Where a runtime only answers whole (llama.cpp), the
log-probabilities of its answers stand for the parts. Past tolerance the export fails. Afterwards, at the settings that
ship, the share of answers still equal.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from masters_edge.bundle.manifest import ExactParity, PartParity
from masters_edge.common.errors import UserError
from masters_edge.runtime import Student

TOLERANCE = 1e-3  # relative; float32 graphs stay near 1e-6
LOGPROB_TOLERANCE = 0.1  # nats; llama.cpp looks GELU up in a float16 table, which alone makes 0.01 on tiny students
TOP = 20  # log-probabilities compared at each place
MAX_NEW_TOKENS = 32  # of each compared answer


@dataclass
class Found:
    """The figures at exact settings, the tolerance they passed, and PyTorch's answers to compare with again."""

    figures: ExactParity
    tolerance: float
    answers: list[list[int]]


def exact(
    references: Iterable[Any],
    samples: list[tuple[Any, str]],
    student: Student,
    on_sample: Callable[[int], None],
    wrong_layer: Callable[[str], str | None] = lambda part: None,
    tolerance: float = TOLERANCE,
) -> Found:
    """Compare the exported student with PyTorch's `references` (one for each sample, in order).

    Raises UserError that names the part past `tolerance`, with the layer that `wrong_layer` finds in it, or the sample
    whose greedy answer differs. An answer may differ only where PyTorch's own choice is a tie within the error measured
    for that sample; then it counts as not equal, but doesn't fail the export.
    """
    if answers_whole(student):
        return _exact_whole(references, samples, student, on_sample)
    worst: dict[str, float] = {}
    answers, equal = [], 0
    for index, (reference, (image, question)) in enumerate(zip(references, samples)):
        logits = _logits(student, reference)
        for part, error in errors(reference, student, logits).items():
            worst[part] = max(worst.get(part, 0.0), error)
            if not error <= tolerance:
                layer = wrong_layer(part)
                where = f"{part} ({layer})" if layer else part
                raise UserError(
                    f"parity failed: {where} is off by {error:.1e} (relative) from PyTorch on sample {index + 1} "
                    f"({question!r}), the tolerance is {tolerance:.0e}; no bundle was written"
                )
        answer = student.answer(image, question, max_new_tokens=MAX_NEW_TOKENS).token_ids
        if answer == reference.answer:
            equal += 1
        else:
            _forgive_tie(answer, reference, float(np.abs(logits - reference.logits).max()), index, question)
        answers.append(reference.answer)
        on_sample(index + 1)
    figures = {part: PartParity(max_relative_error=error) for part, error in worst.items()}
    return Found(ExactParity(parts=figures, equal_answers=equal / len(samples)), tolerance, answers)


def answers_whole(student: Student) -> bool:
    """Whether the runtime answers by its own code, with no parts to look at."""
    return hasattr(student.backend, "answer")


def as_read(student: Student, image: Any, question: str) -> Any:
    """The picture to prove on: where a runtime cuts pictures its own way, one that needs no resizing before the cut."""
    if not answers_whole(student):
        return image
    return student.backend.picture(student.ask(image, question)) or image


def errors(reference: Any, student: Student, logits: np.ndarray | None = None) -> dict[str, float]:
    """Relative error of each graph; `logits` are the decoder's where they are known already."""
    backend = student.backend
    found = {
        "vision_encoder": (backend.vision(reference.vision_inputs), reference.features),
        "embed_tokens": (backend.embed(reference.input_ids), reference.token_embeds),
        "decoder": (_logits(student, reference) if logits is None else logits, reference.logits),
    }
    return {part: relative_error(ours, theirs) for part, (ours, theirs) in found.items()}


def equal_answers(answers: list[list[int]], samples: list[tuple[Any, str]], student: Student) -> float:
    """Share (0 to 1) of greedy answers equal to `answers`, token by token."""
    ours = [student.answer(image, question, max_new_tokens=MAX_NEW_TOKENS).token_ids for image, question in samples]
    return sum(a == b for a, b in zip(ours, answers)) / len(samples)


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """max |ours - theirs| / max |theirs|; infinite where shapes differ or something isn't finite."""
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return float("inf")
    return float(np.abs(ours - theirs).max() / max(float(np.abs(theirs).max()), 1e-30))


def _exact_whole(
    references: Iterable[Any], samples: list[tuple[Any, str]], student: Student, on_sample: Callable[[int], None]
) -> Found:
    """As `exact`, by the log-probabilities of the likeliest tokens, up to where the answers part."""
    worst, answers, equal = 0.0, [], 0
    for index, (reference, (image, question)) in enumerate(zip(references, samples)):
        asked = student.ask(image, question)
        found = student.backend.answer(asked, MAX_NEW_TOKENS, student.stop_ids, top=TOP)
        error = logprob_error(found.token_ids, found.top, reference)
        worst = max(worst, error)
        if not error <= LOGPROB_TOLERANCE:
            raise UserError(
                f"parity failed: the answer to sample {index + 1} ({question!r}) has log-probabilities off by "
                f"{error:.1e} nats from PyTorch's, the tolerance is {LOGPROB_TOLERANCE}; no bundle was written"
            )
        if found.token_ids == reference.answer:
            equal += 1
        else:
            _forgive_tie(found.token_ids, reference, error, index, question)
        answers.append(reference.answer)
        on_sample(index + 1)
    return Found(ExactParity(logprob_error=worst, equal_answers=equal / len(samples)), LOGPROB_TOLERANCE, answers)


def logprob_error(answer: list[int], top: dict[int, dict[int, float]], reference: Any) -> float:
    """max |log p - PyTorch's| over the places told of, as long as the answers are the same before; nats."""
    same = next((i for i, pair in enumerate(zip(answer, reference.answer)) if pair[0] != pair[1]), len(answer))
    before = reference.input_ids.shape[1] - 1
    error = 0.0
    for place, chances in top.items():
        if place > same or before + place >= reference.logits.shape[1]:
            continue
        logits = reference.logits[0, before + place].astype(np.float64)
        theirs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        for token, ours in chances.items():
            # A token that may not be said (the picture's placeholder) has no probability there.
            if np.isfinite(ours):
                error = max(error, abs(ours - theirs[token]))
    return error


def _logits(student: Student, reference: Any) -> np.ndarray:
    """Prefill of the whole prompt, then PyTorch's own answer fed token by token: float32 [1, tokens, vocab]."""
    backend, prompt = student.backend, reference.input_ids.shape[1]
    backend.start()
    steps = [backend.forward(reference.embeds, reference.position_ids[..., :prompt])]
    for place, token in enumerate(reference.answer[:-1], prompt):
        embeds = backend.embed(np.asarray([[token]], np.int64))
        steps.append(backend.forward(embeds, reference.position_ids[..., place : place + 1]))
    return np.concatenate(steps, axis=1)


def _forgive_tie(answer: list[int], reference: Any, error: float, index: int, question: str) -> None:
    """Raise UserError, unless PyTorch's logits at the first difference are closer than twice the measured `error`."""
    expected = reference.answer
    place = next((i for i, pair in enumerate(zip(answer, expected)) if pair[0] != pair[1]), None)
    if place is not None:
        logits = reference.logits[0, reference.input_ids.shape[1] - 1 + place]
        if float(logits[expected[place]] - logits[answer[place]]) <= 2 * error:
            return
    where = min(len(answer), len(expected)) if place is None else place
    raise UserError(
        f"parity failed: the greedy answer to sample {index + 1} ({question!r}) differs from PyTorch's at token "
        f"{where + 1}; no bundle was written"
    )
