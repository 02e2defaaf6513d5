"""Bytes on disk, phase by phase: response shards, checkpoints, students.

Shards are not guessed: two small ones are written with the store's own code from random tokens, and what they take
tells the fixed part of a file and the bytes of a row. Before compression a response token takes 8 bytes of id and 4 of
log-probability, and with `teacher_logits: cached` k x (4 + 2) + 4 more.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from masters_edge.plan.tokens import Lengths, PhaseTokens
from masters_edge.recipe import Recipe
from masters_edge.responses import store
from masters_edge.responses.store import Response
from masters_edge.training.setup import KEPT_CHECKPOINTS

_SAMPLES = (1, 4)  # questions of the two shards that are written
_SPREAD = 2.0  # standard deviation of a random teacher's logits
_DRAWN = 4096  # of the vocabulary, at most: enough to draw the most likely from
_LETTERS = 4  # of a token's text
_SMALL = 40_000  # bytes of a checkpoint's other files (scheduler, random states, arguments) and of a config
_TOKENIZER = 8 << 20  # bytes of processor files beside a student of a large vocabulary


@dataclass(frozen=True)
class PhaseDisk:
    """Bytes of one phase when it is over; `while_writing` is the checkpoint more that there is for a moment."""

    responses: int
    checkpoints: int
    student: int
    while_writing: int

    @property
    def kept(self) -> int:
        return self.responses + self.checkpoints + self.student


def phase_disk(
    recipe: Recipe,
    counted: PhaseTokens,
    lengths: Lengths,
    weights: int,
    trained: int,
    adapters: int,
    vocabulary: int,
    tokenizer_bytes: int | None = None,
) -> PhaseDisk:
    """Bytes that a phase leaves.

    Args:
        recipe: shards, cached logits, how often a checkpoint is written.
        counted: the phase's responses.
        lengths: tokens of a response, distinct responses of a question.
        weights: the student's parameters without adapters (count).
        trained: those that learn, adapters included.
        adapters: the adapters' alone, 0 where there are none.
        vocabulary: tokens that ids are drawn from.
        tokenizer_bytes: processor files beside the student.
    """
    responses = 0.0
    asked = [stage.asked for stage in counted.stages if stage.asked]
    if asked:
        fixed, per_row = _shard(recipe, round(lengths.response), vocabulary)
        files = sum(-(-count // recipe.responses.questions_per_shard) for count in asked)
        responses = files * fixed + sum(asked) * lengths.distinct * per_row
    saved = 4 * (adapters or weights)
    checkpoint = saved + 8 * trained + _SMALL
    count = min(KEPT_CHECKPOINTS, counted.steps // recipe.train.save_every)
    count = max(count, 1)  # Trainer writes one at the end
    other = _TOKENIZER if tokenizer_bytes is None else tokenizer_bytes
    return PhaseDisk(round(responses), count * checkpoint, 4 * weights + other, checkpoint)


_ORIGIN = store.Origin(
    student="0" * 64,
    teacher_model="1" * 64,
    student_template="0" * 16,
    teacher_template="1" * 16,
    student_engine="transformers",
    teacher_engine="transformers",
    sampling="{}",
    seed=0,
)


def _shard(recipe: Recipe, tokens: int, vocabulary: int) -> tuple[float, float]:
    """Fixed bytes of a shard, and bytes of a row."""
    with tempfile.TemporaryDirectory() as folder:
        sizes, counts, rng = [], [], np.random.default_rng(0)
        for groups in _SAMPLES:
            rows = [row for _ in range(groups) for row in _group(recipe, max(1, tokens), vocabulary, rng)]
            path = Path(folder) / f"{groups}.parquet"
            store.write(path, rows, _ORIGIN)
            sizes.append(path.stat().st_size)
            counts.append(len(rows))
    per_row = (sizes[1] - sizes[0]) / (counts[1] - counts[0])
    return sizes[0] - counts[0] * per_row, per_row


def _group(recipe: Recipe, tokens: int, vocabulary: int, rng: np.random.Generator) -> Iterator[Response]:
    """A question's responses, all distinct: random tokens, and the teacher's distribution of normal random logits, the
    same at the first token of all, where they stand behind the same prompt."""
    options = recipe.responses
    k = min(recipe.train.teacher_top_k, vocabulary)
    first = _most_likely(rng, 1, vocabulary, k)
    question = f"train-{rng.integers(10**6)}"
    for number in range(options.student + options.teacher):
        stored: dict[str, Any] = {}
        if recipe.train.teacher_logits == "cached":
            ids, log_probs = (np.concatenate(pair) for pair in zip(first, _most_likely(rng, tokens - 1, vocabulary, k)))
            stored = {
                "top_ids": ids.astype(np.int32).ravel(),
                "top_log_probs": log_probs.astype(np.float16).ravel(),
                "rest": -rng.exponential(4, tokens).astype(np.float32),
            }
        yield Response(
            question_id=question,
            stage=0,
            teacher=0,
            ratio=0.2,
            source="student" if number < options.student else "teacher",
            token_ids=rng.integers(0, vocabulary, tokens).tolist(),
            text="".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz "), tokens * _LETTERS)),
            count=1,
            log_probs=-rng.exponential(1, tokens).astype(np.float32),
            jsd=float(rng.random()),
            label="label",
            label_source="label",
            metric=recipe.reward.metric,
            r_acc=float(rng.integers(2)),
            scorer=f"rule:{recipe.reward.metric}",
            **stored,
        )


def _most_likely(rng: np.random.Generator, tokens: int, vocabulary: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and log-probabilities `[tokens, k]`, most likely first."""
    logits = rng.normal(0, _SPREAD, (tokens, max(k, min(vocabulary, _DRAWN))))
    ids = np.argsort(-logits, axis=-1)[:, :k]
    log_probs = np.take_along_axis(logits - np.log(np.exp(logits).sum(-1, keepdims=True)), ids, -1)
    spread = max(1, vocabulary // logits.shape[1])
    return ids * spread + rng.integers(0, spread, ids.shape), log_probs
