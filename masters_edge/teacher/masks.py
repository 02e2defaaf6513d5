"""What masks follow from, where the recipe has it measured: activation norms, each teacher's r_max."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masters_edge import data
from masters_edge.common.display import progress
from masters_edge.data.questions import Questions
from masters_edge.families.loading import bare_model
from masters_edge.recipe import Recipe
from masters_edge.teacher import calibration, ladder, norms
from masters_edge.teacher.chain import TeacherChain
from masters_edge.teacher.masking import check_globs


def check(recipe: Recipe, teachers: Sequence[str]) -> None:
    """The recipe's globs fit weights of every teacher; looks at configs alone.

    Raises:
        UserError: a glob of `mask.include` or `mask.exclude` that fits no weight of a teacher.
    """
    mask = recipe.mask
    if mask.include == ["*"] and not mask.exclude:
        return
    for teacher in teachers:
        check_of(recipe, bare_model(teacher), teacher)


def check_of(recipe: Recipe, model: Any, of: str) -> None:
    """As `check`, of one model (on the meta device will do); `of` names it in messages."""
    names = [name for name, parameter in model.named_parameters() if parameter.dim() >= 2]
    check_globs(names, recipe.mask.include, recipe.mask.exclude, "mask.{}", of)


def measure(folder: Path, recipe: Recipe, teachers: TeacherChain, questions: Questions) -> None:
    """Measure what a run's `folder` doesn't have yet; afterwards the chain knows its masks.

    Raises:
        UserError: norms or masks that can't be read, or no question to measure on.
    """
    mask = recipe.mask
    if mask.score == "activation":
        some = data.sample(questions.train, min(mask.calibration_questions, len(questions.train)), seed=recipe.seed)
        missing = sum(not norms.path(folder, t).exists() for t in range(len(teachers)))
        with progress("activation norms", missing * len(some)) as bar:
            calibration.gather(teachers, folder, some, recipe.responses.max_new_tokens, bar)
    if mask.r_max == "auto":
        teachers.masks = ladder.measure(folder, recipe, teachers, questions.held_out or questions.unlabelled)
