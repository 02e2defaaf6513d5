"""The visits of a phase: which question at which step, with which responses. Responses that are missing are made.

In: a recipe's phase, the questions, and a `Generator`. Out: every `Visit` in order, and what `auto` becomes for the
phase: how a step's sequences are dealt out, and the policy term.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from masters_edge import data
from masters_edge.common import processes
from masters_edge.common.display import progress, ratio_text, say
from masters_edge.data.records import Question
from masters_edge.recipe import Phase, Recipe, schedule
from masters_edge.recipe.schedule import Stage
from masters_edge.responses import choices, summary
from masters_edge.responses.generate import Generator
from masters_edge.teacher.chain import TeacherChain


@dataclass(frozen=True, slots=True)
class Visit:
    """One visit to one question: which stage, and the shard with its responses; a labelled question needs neither."""

    question: Question
    stage: Stage | None = None
    shard: Path | None = None


def pool(phase: Phase, questions: Sequence[Question]) -> list[Question]:
    """The questions that a phase can visit: those with an answer for `labels`, else all."""
    return [q for q in questions if phase.objective != "labels" or q.answer is not None]


def deal(recipe: Recipe, phase: Phase, asked: Sequence[Question], generator: Generator) -> Recipe:
    """The recipe with a step's sequences dealt out for this phase (`responses.split: auto`).

    One process looks how alike responses are, the others read what it chose.
    """

    def measure() -> float:
        stage = schedule.stages(recipe, phase, generator.teachers.masks)[0]
        some = data.sample(asked, min(choices.ASKED, len(asked)), recipe.seed)
        with progress("responses alike?", len(some)) as bar:
            return choices.distinct(generator.drawn(stage, some, bar))

    out = generator.folder / choices.SPLIT_FILE
    with processes.state().main_process_first():
        settled = choices.settle_split(recipe, phase, len(asked), out, measure)
    if settled is not recipe:
        chosen = settled.responses
        say(
            f"split: {settled.train.questions_per_step} questions a step, responses of each: {chosen.student} by "
            f"the student, {chosen.teacher} by the teacher"
        )
    return settled


def of_labels(recipe: Recipe, number: int, phase: Phase, asked: Sequence[Question]) -> list[Visit]:
    """Every visit of a `labels` phase, in order. `number`: the phase's place, which its order follows from."""
    return [Visit(asked[i]) for i in _order(recipe, number, phase, asked).flat]


def of_responses(
    recipe: Recipe, number: int, phase: Phase, asked: Sequence[Question], generator: Generator
) -> list[Visit]:
    """Every visit of a phase that learns from responses, in order; makes the shards that are missing."""
    order = _order(recipe, number, phase, asked)
    labels = _teacher_labels(recipe, phase, [asked[i] for i in dict.fromkeys(order.flat)], generator)
    found: list[Visit] = []
    for stage in schedule.stages(recipe, phase, generator.teachers.masks):
        steps = order[stage.first : stage.last]
        distinct = [asked[i] for i in dict.fromkeys(steps.flat)]
        with progress(f"responses, {_name(stage, generator.teachers)}", len(distinct)) as bar:
            shards = generator.responses(stage, distinct, labels, bar)
        found += [Visit(asked[i], stage, shards[asked[i].id]) for i in steps.flat]
    return found


def look_at(recipe: Recipe, phase: Phase, visits: Sequence[Visit], folder: Path) -> Recipe:
    """Say what the phase's responses are like; the recipe with a policy term where it leaves that open."""
    shards = summary.in_order(visit.shard for visit in visits if visit.shard is not None)
    with processes.state().main_process_first():
        found = summary.of(shards, recipe.reward, folder / summary.FILE)
    say(found.sentence())
    if phase.objective not in ("joint", "reward") or recipe.reward.policy != "auto":
        return recipe
    with processes.state().main_process_first():
        settled = choices.settle_policy(recipe, found, folder / choices.POLICY_FILE)
    reward = settled.reward
    say(f"policy: {reward.policy}, weight {reward.weight:g}, beta {reward.kl_beta:g}")
    return settled


def _order(recipe: Recipe, number: int, phase: Phase, asked: Sequence[Question]) -> np.ndarray:
    per_step = schedule.questions_per_step(recipe, phase)
    return schedule.visits(len(asked), phase.steps, per_step, seed=recipe.seed * 1000 + number)


def _teacher_labels(recipe: Recipe, phase: Phase, visited: Sequence[Question], generator: Generator) -> dict[str, str]:
    """The last teacher's own answers where questions have no label and the reward, or a sharing run, wants one."""
    reward = recipe.reward
    unlabelled = [q for q in visited if q.answer is None]
    own = phase.objective in ("joint", "reward") and reward.accuracy
    wanted = (own or recipe.responses.shared) and reward.unlabelled == "teacher"
    if not wanted or not unlabelled:
        return {}
    teachers = generator.teachers
    with progress(f"labels by {teachers.name(len(teachers) - 1)}, unmasked", len(unlabelled)) as bar:
        return generator.labels(unlabelled, bar)


def _name(stage: Stage, teachers: TeacherChain) -> str:
    teacher = f"{teachers.name(stage.teacher)} " if len(teachers) > 1 else ""
    return f"{teacher}mask {ratio_text(stage.ratio)}"
