"""Who takes part in a run: the recipe's checkpoints and questions, found, read and held against each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masters_edge import data, families
from masters_edge.common import memo
from masters_edge.common.display import progress, say
from masters_edge.common.errors import UserError
from masters_edge.data.images import broken_images, some
from masters_edge.data.questions import Questions, read_questions
from masters_edge.data.readers import read_source
from masters_edge.families.fitting import check_lengths, check_texts
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
        raise UserError(f"{recipe_path}: data.train has no question; give it a source that has some")
    _check_labels(questions, recipe)
    fingerprints = {
        "student": families.fingerprint(student),
        "teachers": [families.fingerprint(teacher) for teacher in teachers],
        "data": data.fingerprint(questions.train),
    }
    processor = families.load_processor(student)
    for teacher in teachers if distils(recipe) else ():
        families.require_same_tokenizer(student, processor, teacher, families.load_processor(teacher))
    return Cast(student, teachers, questions, fingerprints)


def check_data(cast: Cast, recipe: Recipe, recipe_path: Path) -> dict[str, int]:
    """Every image can be read, every prompt fits its model, and the questions that `bench` will ask are there.

    Returns:
        About how long the longest prompt is, by checkpoint (tokens): the longest of those built here, and as many
        tokens more as the longest question has.

    Raises:
        UserError: naming the question.
    """
    _check_test(recipe, recipe_path)
    sources = (cast.student, *(cast.teachers if distils(recipe) else ()))
    most, supervised = recipe.responses.max_new_tokens, any(p.objective == "labels" for p in recipe.train.phases)

    def check() -> dict[str, int]:
        every = cast.questions.every
        with progress("checking images", len({q.image_id for q in every})) as bar:
            data.verify_images(every, lambda done, _: bar(completed=done))
        with progress("checking prompts", 1) as bar:
            prompters = [Prompter.load(source) for source in sources]
            check_texts(prompters, every)
            sizes = check_image_tokens(prompters, every, lambda done, total: bar(completed=done, total=total))
            check_lengths(prompters, every, sizes, most, supervised)
        text = max((question.text for question in every), key=len)
        return {
            source: prompter.longest + len(prompter.tokenizer(text)["input_ids"])
            for source, prompter in zip(sources, prompters)
        }

    return memo.once("checked", lambda: (cast.fingerprints["data"], *sources, most, supervised), check)


def _check_labels(questions: Questions, recipe: Recipe) -> None:
    """A phase that learns from labels has some."""
    supervised = [number for number, phase in enumerate(recipe.train.phases) if phase.objective == "labels"]
    if supervised and all(question.answer is None for question in questions.train):
        raise UserError(
            f"train.phases.{supervised[0]}.objective is `labels`, but none of the {len(questions.train):,} training "
            f"questions has an answer (data.train.answer_column is {recipe.data.train.answer_column!r}); name the "
            "column that holds them, or distil"
        )


def _check_test(recipe: Recipe, recipe_path: Path) -> None:
    """`data.test` can be read and has labels: found out now, not after the training."""
    test = recipe.data.test
    if test is None:
        return

    def check() -> None:
        try:
            questions = read_source(test, recipe_path.parent)
        except UserError as error:
            raise UserError(f"data.test, which bench would ask: {error}") from None
        unlabelled = [question.id for question in questions if question.answer is None]
        if unlabelled:
            raise UserError(
                f"data.test, which bench would ask: {len(unlabelled):,} of {len(questions):,} questions have no answer "
                f"(the first is {unlabelled[0]}); add their answers or leave them out"
            )
        if broken := list(broken_images(questions).values()):
            say(
                f"data.test: {len(broken):,} images can't be decoded, and bench will count their questions as wrong: "
                f"{some(broken)}"
            )

    memo.once("test", lambda: (test.model_dump_json(), recipe_path), check)


def distils(recipe: Recipe) -> bool:
    """Whether a teacher has any part in it."""
    return any(phase.objective != "labels" for phase in recipe.train.phases)
