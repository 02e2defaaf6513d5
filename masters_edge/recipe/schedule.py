"""Which questions are visited at which step, by which teacher at which ratio; known before anything starts.

It follows from the recipe, the seed and (with `mask.r_max: auto`) the run's mask.json alone, so responses can be made
ahead of training and a killed run finds its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from masters_edge.recipe import Phase, Recipe
from masters_edge.recipe.stages import Masks, starts


@dataclass(frozen=True, slots=True)
class Stage:
    """Steps `first` to `last` (exclusive) of a phase, with one teacher at one masking ratio."""

    index: int
    teacher: int
    ratio: float
    first: int
    last: int


def masks(recipe: Recipe) -> list[Masks]:
    """Each teacher's masks as the recipe says them.

    Raises:
        ValueError: `mask.r_max` is `auto`: they are measured then (masters_edge/teacher/ladder.py).
    """
    mask = recipe.mask
    if mask.r_max == "auto":
        raise ValueError("mask.r_max is `auto`: the schedule is known once the teachers are measured")
    return [Masks(mask.r_max, mask.step)] * len(recipe.teachers)


def stages(recipe: Recipe, phase: Phase, chain: Sequence[Masks] | None = None) -> list[Stage]:
    """The phase's stages: each teacher of the chain runs its whole mask schedule over its share of the steps (Eq. 3).

    `r[i] = r_max - s * floor(i * M / I)` with `M = r_max / s + 1` stages; `i` runs 0..I-1, so the last stage has ratio
    0. `mask.teacher_lengths` and `mask.stage_lengths` make parts and stages of other lengths than equal ones.

    Args:
        recipe: lengths and teachers.
        phase: its steps are shared out; a `labels` phase has no stages.
        chain: r_max and step of each teacher; default: the recipe's own.
    """
    if phase.objective == "labels":
        return []
    chain = masks(recipe) if chain is None else chain
    found: list[Stage] = []
    parts = starts(phase.steps, recipe.mask.teacher_lengths or [1] * len(chain))
    for teacher, (begin, end) in enumerate(zip(parts, parts[1:])):
        ratios = chain[teacher].ratios
        # A teacher that turned out to bear no mask has a single stage, whatever lengths were given for five.
        lengths = recipe.mask.stage_lengths if len(ratios) > 1 else None
        edges = starts(end - begin, lengths or [1] * len(ratios))
        for ratio, first, last in zip(ratios, edges, edges[1:]):
            found.append(Stage(len(found), teacher, ratio, begin + first, begin + last))
    return found


def group_size(recipe: Recipe) -> int:
    """Responses per question, G."""
    return recipe.responses.student + recipe.responses.teacher


def questions_per_step(recipe: Recipe, phase: Phase) -> int:
    """A `labels` phase sees G times the questions, so that its steps hold as many sequences as a distillation step."""
    return recipe.train.questions_per_step * (group_size(recipe) if phase.objective == "labels" else 1)


def visits(questions: int, steps: int, per_step: int, seed: int) -> np.ndarray:
    """Question positions `[steps, per_step]`: one permutation of all after another."""
    rng = np.random.Generator(np.random.Philox(seed))
    rounds = -(-steps * per_step // questions)
    order = np.concatenate([rng.permutation(questions) for _ in range(rounds)])
    return order[: steps * per_step].reshape(steps, per_step)
