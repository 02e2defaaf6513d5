"""The questions of a recipe: what a run learns from, and what it sets aside."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from masters_edge.common import memo
from masters_edge.common.errors import UserError
from masters_edge.data.left_out import LeftOut
from masters_edge.data.readers import read_source
from masters_edge.data.records import Question
from masters_edge.data.split import hold_out, keep_labels, sample
from masters_edge.recipe import Recipe


@dataclass(frozen=True)
class Questions:
    """What a run learns from, and the questions set aside for its curve; those of them without a label stand apart."""

    train: list[Question]
    held_out: list[Question]
    unlabelled: list[Question] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def every(self) -> list[Question]:
        return self.train + self.held_out + self.unlabelled


def read_questions(recipe: Recipe, recipe_path: Path) -> Questions:
    """Training questions with the labels the recipe keeps, and the held-out ones with theirs.

    Raises:
        UserError: data that can't be read, or fewer questions or labels than the recipe asks for.
    """
    return memo.once(
        "questions",
        lambda: (recipe.data.model_dump_json(), recipe.seed, recipe_path),
        lambda: _read(recipe, recipe_path),
    )


def _read(recipe: Recipe, recipe_path: Path) -> Questions:
    left_out = LeftOut()
    questions = read_source(recipe.data.train, recipe_path.parent, left_out)
    labelled = _labelled(questions)
    held_out: list[Question] = []
    if recipe.data.held_out:
        questions, held_out = hold_out(questions, recipe.data.held_out, recipe.seed)
    unlabelled = [question for question in held_out if question.answer is None]
    held_out = [question for question in held_out if question.answer is not None]
    if recipe.data.limit:
        questions = sample(questions, recipe.data.limit, recipe.seed)
    labels, left = recipe.data.labels, _labelled(questions)
    if labels != "all" and left < labels <= labelled:
        remedies = ["hold out fewer"] * bool(recipe.data.held_out) + ["raise data.limit"] * bool(recipe.data.limit)
        raise UserError(
            f"data.labels asks for {labels:,} labels, but of {labelled:,} labelled questions {left:,} are left after "
            f"data.held_out ({recipe.data.held_out:,}) and data.limit ({recipe.data.limit or 'none'}); "
            f"ask for at most {left:,}, or {' and '.join(remedies)}"
        )
    if recipe.data.labels != "all":
        questions = keep_labels(questions, recipe.data.labels, recipe.seed)
    return Questions(questions, held_out, unlabelled, left_out)


def _labelled(questions: Sequence[Question]) -> int:
    return sum(question.answer is not None for question in questions)
