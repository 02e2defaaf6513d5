"""Dual reward (METHOD 5): accuracy, closeness to the teacher, and the advantages of a group of responses.

A group is the responses to one question. Identical responses are kept once with their count, so every mean and standard
deviation here is weighted by it. What was scored before training (R_acc, the divergence D) is stored with the
responses; what follows from it by arithmetic is computed here whenever a group is read. Plain numpy in float64.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from masters_edge.recipe.schema import Reward

ALIKE = 1e-6  # divergences this near each other (nats) are equal but for rounding


@dataclass(frozen=True, slots=True)
class Scores:
    """A group's rewards, `[responses]` each, float64.

    `counted`: false for a response that its judge failed to score; its reward and advantage are 0 here, and it sets
    neither those of the others nor the bounds of R_distill.
    """

    r_acc: np.ndarray
    r_distill: np.ndarray
    reward: np.ndarray
    advantage: np.ndarray
    counted: np.ndarray


def score(rows: Sequence[Mapping[str, Any]], options: Reward, divergences: np.ndarray | None = None) -> Scores:
    """The rewards of one question's responses, rows of the response store with `jsd`, `r_acc`, `scorer` and `count`.

    `R = R_acc + R_distill` of those the recipe counts. Where nobody could score the question (no label), R_acc is left
    out for the whole group; a response that a judge was asked about and failed on is left out itself. A response of no
    tokens has no divergence (None or NaN), and so the reward of the furthest.

    Args:
        rows: the group.
        options: which rewards count, and how.
        divergences: D under another student than the one the responses were made for; default: the stored one.
    """
    counts = np.array([row["count"] for row in rows], dtype=np.float64)
    if divergences is None:
        divergences = np.array([row["jsd"] for row in rows], dtype=np.float64)
    known = np.array([row["r_acc"] is not None for row in rows])
    asked = np.array([row["scorer"] is not None for row in rows])
    counted = known | ~asked if options.accuracy else np.ones(len(rows), dtype=bool)
    r_acc = np.array([row["r_acc"] or 0.0 for row in rows], dtype=np.float64)
    r_distill = distillation(divergences, counted, min_max=options.min_max)
    reward = np.zeros(len(rows))
    if options.accuracy:
        reward += r_acc
    if options.distillation:
        reward += r_distill
    reward[~counted] = 0.0
    advantage = np.zeros(len(rows))
    if counted.any():
        advantage[counted] = advantages(reward[counted], counts[counted])
    return Scores(r_acc, r_distill, reward, advantage, counted)


def distillation(divergences: np.ndarray, counted: np.ndarray | None = None, *, min_max: bool = True) -> np.ndarray:
    """`R_distill = (D_max - D) / (D_max - D_min)` over a group `[responses]`, or `-D` without `min_max`.

    Ours: where `D_max - D_min <= 1e-6` the responses are equal but for rounding, so all get 1 (or the same `-D`); a
    response that isn't `counted` gets 0 and sets neither bound; nor does one without tokens, whose D is NaN, and which
    gets 0 (or `-ln 2`, since no JSD is larger).
    """
    counted = np.ones(len(divergences), dtype=bool) if counted is None else counted
    found, compared = np.zeros(len(divergences)), counted & np.isfinite(divergences)
    if not min_max:
        found[counted] = -math.log(2)
    if compared.any():
        values = divergences[compared]
        high, low = values.max(), values.min()
        if high - low <= ALIKE:
            found[compared] = 1.0 if min_max else -low
        else:
            found[compared] = (high - values) / (high - low) if min_max else -values
    return found


def advantages(rewards: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`A_j = (R_j - mean(R)) / std(R)`, population standard deviation; 0 where it is 0 (ours).

    Args:
        rewards: `[responses]`, one per distinct response.
        counts: `[responses]`, how often each was drawn.
    """
    mean = np.average(rewards, weights=counts)
    deviation = np.sqrt(np.average((rewards - mean) ** 2, weights=counts))
    if deviation < 1e-12:
        return np.zeros_like(rewards, dtype=np.float64)
    return (rewards - mean) / deviation
