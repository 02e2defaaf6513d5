"""Which questions are visited at which step, by which teacher at which ratio; known before anything starts.

It follows from the recipe and the seed alone, so responses can be made ahead of training and a killed run finds its
place.
"""

from dataclasses import dataclass

import numpy as np

from masters_edge.recipe import Phase, Recipe


@dataclass(frozen=True, slots=True)
class Stage:
    """Steps `first` to `last` (exclusive) of a phase, with one teacher at one masking ratio."""

    index: int
    teacher: int
    ratio: float
    first: int
    last: int


def mask_ratios(r_max: float, step: float, iterations: int) -> list[float]:
    """Masking ratio of each iteration, Eq. 3: `r[i] = r_max - s * floor(i * M / I)` with `M = r_max / s + 1` stages.

    `i` runs 0..I-1, so the last stage has ratio 0.
    """
    stages = round(r_max / step) + 1
    return [round(r_max - step * (i * stages // iterations), 10) for i in range(iterations)]


def stages(recipe: Recipe, phase: Phase) -> list[Stage]:
    """The phase's stages: each teacher of the chain runs the whole mask schedule over its share of the steps."""
    if phase.objective == "labels":
        return []
    found: list[Stage] = []
    chain = len(recipe.teachers)
    for teacher in range(chain):
        start, end = phase.steps * teacher // chain, phase.steps * (teacher + 1) // chain
        ratios = mask_ratios(recipe.mask.r_max, recipe.mask.step, end - start)
        first = start
        for step in range(start + 1, end + 1):
            if step == end or ratios[step - start] != ratios[first - start]:
                found.append(Stage(len(found), teacher, ratios[first - start], first, step))
                first = step
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
