"""The questions of a recipe: what a run learns from, and what it sets aside."""

from dataclasses import dataclass, field
from pathlib import Path

from masters_edge.common import memo
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
    questions = read_source(recipe.data.train, recipe_path.parent)
    held_out: list[Question] = []
    if recipe.data.held_out:
        questions, held_out = hold_out(questions, recipe.data.held_out, recipe.seed)
    unlabelled = [question for question in held_out if question.answer is None]
    held_out = [question for question in held_out if question.answer is not None]
    if recipe.data.limit:
        questions = sample(questions, recipe.data.limit, recipe.seed)
    if recipe.data.labels != "all":
        questions = keep_labels(questions, recipe.data.labels, recipe.seed)
    return Questions(questions, held_out, unlabelled)
