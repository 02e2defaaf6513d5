"""The gate every export passes through: does the exported student compute what PyTorch computes?

On real samples, at exact arithmetic, with the same integers: the largest relative error of each part, then greedy
answers token by token, end to end through the torch-free runtime. Where a runtime only answers whole (llama.cpp), the
log-probabilities of its answers stand for the parts. Past tolerance, or with an answer that differs elsewhere than at a
near tie, the export fails. Afterwards, at the settings that ship, the share of answers still equal, and how far
features and log-probabilities have moved; past a bound, or with anything that isn't finite, the export fails too.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from masters_edge.bundle.manifest import ExactParity, NearTie, PartParity, ShippedParity
from masters_edge.common.errors import UserError
from masters_edge.runtime import Student

TOLERANCE = 1e-3  # relative; float32 graphs stay near 1e-6
LOGPROB_TOLERANCE = 0.1  # nats; llama.cpp looks GELU up in a float16 table, which alone makes 0.01 on tiny students
SHIPPED_TOLERANCE = 0.5  # of features and log-probabilities as they ship, relative; what garbage has is 1 or more
TOP = 20  # log-probabilities compared at each place
MAX_NEW_TOKENS = 32  # of each compared answer


@dataclass
class Expected:
    """What PyTorch says about one sample: the answer's ids, the picture's features float32 [image tokens, width], and
    the log-probabilities of every token at each place of the answer, float16 [answer, vocab]."""

    answer: list[int]
    features: np.ndarray
    logprobs: np.ndarray


@dataclass
class Found:
    """The figures at exact settings, the tolerance they passed, and what PyTorch says, to compare with again."""

    figures: ExactParity
    tolerance: float
    expected: list[Expected]


def exact(
    references: Iterable[Any],
    samples: list[tuple[Any, str]],
    student: Student,
    on_sample: Callable[[int], None],
    wrong_layer: Callable[[str], str | None] = lambda part: None,
    not_finite: Callable[[Any, str], str | None] = lambda image, question: None,
    tolerance: float = TOLERANCE,
) -> Found:
    """Compare the exported student with PyTorch's `references` (one for each sample, in order).

    Raises UserError that names the part past `tolerance`, with the layer that `wrong_layer` finds in it, the layer in
    which PyTorch itself is `not_finite`, or the sample whose greedy answer differs. An answer may differ only where
    PyTorch's own choice is a tie within the error measured for that sample; then it counts as not equal, and is told of
    with its margin, but doesn't fail the export.
    """
    whole, worst = answers_whole(student), dict[str, float]()
    expected, ties = [], []
    for index, (reference, (image, question)) in enumerate(zip(references, samples)):
        where = f"sample {index + 1} ({question!r})"
        if not (np.isfinite(reference.features).all() and np.isfinite(reference.logits).all()):
            layer = not_finite(image, question)
            raise UserError(
                f"the student itself computes numbers that aren't finite, in PyTorch, on {where}"
                f"{f', first in {layer}' if layer else ''}; no bundle was written"
            )
        if whole:
            found = student.backend.answer(student.ask(image, question), MAX_NEW_TOKENS, student.stop_ids, top=TOP)
            answer, error = found.token_ids, logprob_error(found.token_ids, found.top, reference)
            worst["logprobs"] = max(worst.get("logprobs", 0.0), error)
            if not error <= LOGPROB_TOLERANCE:
                raise UserError(
                    f"parity failed: the answer to {where} has log-probabilities off by {error:.1e} nats from "
                    f"PyTorch's, the tolerance is {LOGPROB_TOLERANCE}; no bundle was written"
                )
        else:
            logits = _logits(student, reference)
            for part, off in errors(reference, student, logits).items():
                worst[part] = max(worst.get(part, 0.0), off)
                if not off <= tolerance:
                    layer = wrong_layer(part)
                    raise UserError(
                        f"parity failed: {f'{part} ({layer})' if layer else part} is off by {off:.1e} (relative) from "
                        f"PyTorch on {where}, the tolerance is {tolerance:.0e}; no bundle was written"
                    )
            error = float(np.abs(logits - reference.logits).max())
            answer = student.answer(image, question, max_new_tokens=MAX_NEW_TOKENS).token_ids
        if answer != reference.answer:
            ties.append(near_tie(answer, reference, error, index, question))
        before = reference.input_ids.shape[1] - 1
        places = log_softmax(reference.logits[0, before : before + len(reference.answer)]).astype(np.float16)
        expected.append(Expected(reference.answer, reference.features, places))
        on_sample(index + 1)
    equal = 1 - len(ties) / len(samples)
    if whole:
        return Found(
            ExactParity(logprob_error=worst["logprobs"], equal_answers=equal, near_ties=ties),
            LOGPROB_TOLERANCE,
            expected,
        )
    parts = {part: PartParity(max_relative_error=error) for part, error in worst.items()}
    return Found(ExactParity(parts=parts, equal_answers=equal, near_ties=ties), tolerance, expected)


def shipped(
    expected: list[Expected],
    samples: list[tuple[Any, str]],
    student: Student,
    beyond_float16: Callable[[Any, str], str | None] = lambda image, question: None,
) -> ShippedParity:
    """Compare what ships with PyTorch: the share of greedy answers equal token by token, and how far it has moved.

    Raises UserError past `SHIPPED_TOLERANCE`, or for anything that isn't finite; it names the layer that
    `beyond_float16` finds, which gets (image, question) of the sample.
    """
    equal, feature_error, logprob_errors = 0, 0.0, list[float]()
    for index, (wanted, (image, question)) in enumerate(zip(expected, samples)):
        if answers_whole(student):
            found = student.backend.answer(student.ask(image, question), MAX_NEW_TOKENS, student.stop_ids, top=TOP)
            answer, top, moved = found.token_ids, found.top, 0.0
        else:
            features, answer, top = _follow(student, wanted.answer, image, question)
            moved = relative_error(features, wanted.features)
        lost = lost_share(answer, top, wanted)
        if not (moved <= SHIPPED_TOLERANCE and lost <= SHIPPED_TOLERANCE):
            layer = beyond_float16(image, question)
            why = f"{layer} passes 65,504, the largest float16" if layer else _how_far(moved, lost)
            raise UserError(
                f"parity failed: at the settings that ship the answer to sample {index + 1} ({question!r}) is garbage: "
                f"{why}; no bundle was written; take another scheme (fp32 computes in float32 wherever the target can)"
            )
        equal += answer == wanted.answer
        feature_error = max(feature_error, moved)
        logprob_errors.append(lost)
    return ShippedParity(
        equal_answers=equal / len(samples),
        feature_error=None if answers_whole(student) else feature_error,
        logprob_error=max(logprob_errors),
    )


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


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """max |ours - theirs| / max |theirs|; infinite where shapes differ or something isn't finite."""
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return float("inf")
    return float(np.abs(ours - theirs).max() / max(float(np.abs(theirs).max()), 1e-30))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """[..., vocab] -> log-probabilities float64 [..., vocab]."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def logprob_error(answer: list[int], top: dict[int, dict[int, float]], reference: Any) -> float:
    """max |log p - PyTorch's| over the places told of, as long as the answers are the same before; nats.

    Infinite where one isn't a number.
    """
    same = _same(answer, reference.answer)
    before = reference.input_ids.shape[1] - 1
    error = 0.0
    for place, chances in top.items():
        if place > same or before + place >= reference.logits.shape[1]:
            continue
        theirs = log_softmax(reference.logits[0, before + place])
        for token, ours in chances.items():
            if np.isnan(ours):
                return float("inf")
            # A token that may not be said (the picture's placeholder) has no probability there.
            if np.isfinite(ours):
                error = max(error, abs(ours - float(theirs[token])))
    return error


def lost_share(answer: list[int], top: dict[int, dict[int, float]], wanted: Expected) -> float:
    """Root mean square of (log p - PyTorch's) over the tokens told of, by that of (PyTorch's - their mean over the
    vocabulary): 0 is PyTorch, 1 tells as much as all tokens being equally likely. Infinite for what isn't a number."""
    off = signal = 0.0
    for place, chances in top.items():
        if place > _same(answer, wanted.answer) or place >= len(wanted.logprobs):
            continue
        theirs = wanted.logprobs[place].astype(np.float64)
        middle = float(theirs.mean())
        for token, ours in chances.items():
            if np.isnan(ours):
                return float("inf")
            if np.isfinite(ours):
                off += (ours - float(theirs[token])) ** 2
                signal += (float(theirs[token]) - middle) ** 2
    return float(np.sqrt(off / max(signal, 1e-30)))


def near_tie(answer: list[int], reference: Any, error: float, index: int, question: str) -> NearTie:
    """Where the answers part, if PyTorch's two logits there are no further apart than twice the measured `error`.

    Raises UserError otherwise: also where PyTorch's token is the less likely one by its own logits, as then it did not
    answer greedily, and the two are not comparable.
    """
    expected, place = reference.answer, _same(answer, reference.answer)
    if place < min(len(answer), len(expected)):
        logits = reference.logits[0, reference.input_ids.shape[1] - 1 + place]
        margin = abs(float(logits[expected[place]] - logits[answer[place]]))
        if margin <= 2 * error:
            return NearTie(sample=index + 1, token=place + 1, margin=margin, error=error)
    raise UserError(
        f"parity failed: the greedy answer to sample {index + 1} ({question!r}) differs from PyTorch's at token "
        f"{place + 1}; no bundle was written"
    )


def _same(answer: list[int], expected: list[int]) -> int:
    """How many tokens two answers begin with alike."""
    return next(
        (i for i, pair in enumerate(zip(answer, expected)) if pair[0] != pair[1]), min(len(answer), len(expected))
    )


def _logits(student: Student, reference: Any) -> np.ndarray:
    """Prefill of the whole prompt, then PyTorch's own answer fed token by token: float32 [1, tokens, vocab]."""
    backend, prompt = student.backend, reference.input_ids.shape[1]
    backend.start()
    steps = [backend.forward(reference.embeds, reference.position_ids[..., :prompt])]
    for place, token in enumerate(reference.answer[:-1], prompt):
        embeds = backend.embed(np.asarray([[token]], np.int64))
        steps.append(backend.forward(embeds, reference.position_ids[..., place : place + 1]))
    return np.concatenate(steps, axis=1)


def _follow(
    student: Student, answer: list[int], image: Any, question: str
) -> tuple[np.ndarray, list[int], dict[int, dict[int, float]]]:
    """The student led along PyTorch's `answer`, as it would give its own: features, its choice at each place, and the
    log-probabilities of its likeliest tokens there. Where all choices are PyTorch's, its answer is."""
    asked = student.ask(image, question)
    features = student.backend.vision(asked.seen.inputs)
    positions, position = student.family.positions(np.asarray([asked.input_ids], np.int64), asked.seen)
    logits, chosen, top = (
        student.prefill(asked.input_ids, features, positions),
        list[int](),
        dict[int, dict[int, float]](),
    )
    for place in range(len(answer)):
        if place:
            after = np.full((*positions.shape[:-1], 1), position + place - 1, np.int64)
            logits = student.step(answer[place - 1], after)
        chosen.append(-1 if np.isnan(logits).any() else student.best(logits))
        chances = log_softmax(logits)
        likeliest = np.argpartition(-chances, min(TOP, len(chances)) - 1)[:TOP]
        top[place] = {int(other): float(chances[other]) for other in likeliest}
    return features, chosen, top


def _how_far(moved: float, lost: float) -> str:
    if not np.isfinite(moved):
        return "the picture's features are not finite"
    if not np.isfinite(lost):
        return "its log-probabilities are not finite"
    return (
        f"the picture's features are off by {100 * moved:.0f}% from PyTorch's, the log-probabilities by "
        f"{100 * lost:.0f}% (at most {100 * SHIPPED_TOLERANCE:.0f}% passes)"
    )
