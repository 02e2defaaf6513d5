"""Who takes part in a run: the recipe's checkpoints and questions, found, read and held against each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masters_edge import data, families
from masters_edge.common import memo
from masters_edge.common.display import progress
from masters_edge.common.errors import UserError
from masters_edge.data.questions import Questions, read_questions
from masters_edge.families.prompts import Prompter, check_image_tokens
from masters_edge.recipe import Recipe, checkpoint


@dataclass(frozen=True)
class Cast:
    """Who takes part, as transformers finds them, what they learn from, and what all of it is known by."""

    student: str
    teachers: list[str]
    questions: Questions
    fingerprints: dict[str, Any]


def cast_of(recipe: Recipe, recipe_path: Path) -> Cast:
    """Find the recipe's checkpoints, read its questions, and look whether they go together.

    Raises:
        UserError: a checkpoint or data that can't be used, no question left to train on, teachers of another tokenizer.
    """
    student = checkpoint(recipe.student, recipe_path)
    teachers = [checkpoint(name, recipe_path) for name in recipe.teachers]
    questions = read_questions(recipe, recipe_path)
    if not questions.train:
        raise UserError(f"{recipe_path}: data.train has no question left after holding out {recipe.data.held_out}")
    fingerprints = {
        "student": families.fingerprint(student),
        "teachers": [families.fingerprint(teacher) for teacher in teachers],
        "data": data.fingerprint(questions.train),
    }
    processor = families.load_processor(student)
    for teacher in teachers if distils(recipe) else ():
        families.require_same_tokenizer(student, processor, teacher, families.load_processor(teacher))
    return Cast(student, teachers, questions, fingerprints)


def check_data(cast: Cast, recipe: Recipe) -> None:
    """Every image can be read, and fills as many placeholders as the prompt of each checkpoint has.

    Raises:
        UserError: naming the question.
    """
    sources = (cast.student, *(cast.teachers if distils(recipe) else ()))

    def check() -> None:
        every = cast.questions.every
        with progress("checking images", len({q.image_id for q in every})) as bar:
            data.verify_images(every, lambda done, _: bar(completed=done))
        with progress("checking prompts", 1) as bar:
            prompters = [Prompter.load(source) for source in sources]
            check_image_tokens(prompters, every, lambda done, total: bar(completed=done, total=total))

    memo.once("checked", lambda: (cast.fingerprints["data"], *sources), check)


def distils(recipe: Recipe) -> bool:
    """Whether a teacher has any part in it."""
    return any(phase.objective != "labels" for phase in recipe.train.phases)
