"""What a recipe would do, before anything is loaded or downloaded: stages, sequences, responses, outputs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from masters_edge.common.display import ratio_text
from masters_edge.recipe import schedule
from masters_edge.recipe.schema import Mixed, Phase, Recipe
from masters_edge.recipe.stages import five_stages
from masters_edge.run import folder as runs


@dataclass(frozen=True, slots=True)
class PhaseOutline:
    """One phase in figures."""

    number: int
    phase: Phase
    stages: list[schedule.Stage]
    questions_per_step: int
    sequences_per_step: int

    @property
    def visits(self) -> int:
        """Questions visited, repeats counted."""
        return self.phase.steps * self.questions_per_step


def phases(recipe: Recipe) -> Iterator[PhaseOutline]:
    """Each phase; where r_max is still to be measured, the stages' ratios are shares of it."""
    chain = [five_stages(1.0)] * len(recipe.teachers) if recipe.mask.r_max == "auto" else None
    for number, phase in enumerate(recipe.train.phases):
        per_step = schedule.questions_per_step(recipe, phase)
        group = 1 if phase.objective == "labels" else schedule.group_size(recipe)
        yield PhaseOutline(number, phase, schedule.stages(recipe, phase, chain), per_step, per_step * group)


def lines(recipe: Recipe, recipe_path: Path) -> Iterator[str]:
    """The plan as text for a screen."""
    yield f"recipe   {recipe_path}"
    yield f"student  {recipe.student}"
    yield f"teacher  {' -> '.join(recipe.teachers)}"
    split = f" ({recipe.data.train.split})" if recipe.data.train.split else ""
    labels = "all labels" if recipe.data.labels == "all" else f"labels of {recipe.data.labels:,} questions"
    yield f"data     {recipe.data.train.source}{split}, {labels}, {recipe.data.held_out:,} questions held out"
    share = " x r_max" if recipe.mask.r_max == "auto" else ""
    if share:
        kept = "of its unmasked accuracy on held-out questions"
        yield f"mask     r_max auto: each teacher's largest ratio that keeps {100 * recipe.mask.keep:g}% {kept}"
    for plan in phases(recipe):
        yield (
            f"phase {plan.number + 1}  {plan.phase.objective}: {plan.phase.steps:,} steps of "
            f"{plan.questions_per_step} questions, at most {plan.sequences_per_step} sequences each"
        )
        for stage in plan.stages:
            visits = (stage.last - stage.first) * plan.questions_per_step
            responses = visits * schedule.group_size(recipe)
            yield (
                f"         steps {stage.first:,} to {stage.last:,}: {recipe.teachers[stage.teacher]}, mask "
                f"{ratio_text(stage.ratio)}{share}, {visits:,} visits, at most {responses:,} responses"
            )
        if recipe.responses.split == "auto" and plan.phase.objective != "labels":
            yield "         split auto: perhaps more questions with fewer responses each, as many sequences"
        if "reward" in plan.phase.objective or plan.phase.objective == "joint":
            yield f"         reward: {_reward(recipe)}"
        qat = recipe.quantize.qat
        if qat and plan.number == len(recipe.train.phases) - 1:
            first = qat.plain_steps(plan.phase.steps) + 1
            yield f"         weights rounded as {_name(qat.scheme)} from step {first:,} on"
    yield f"export   {', '.join(recipe.export.targets)} x {', '.join(map(_name, recipe.quantize.schemes))}"
    test = recipe.data.test
    yield f"bench    {test.source + (f' ({test.split})' if test.split else '') if test else 'no data.test given'}"
    yield f"run      {runs.folder_of(recipe, recipe_path)}"


def _name(scheme: Mixed | str) -> str:
    return scheme if isinstance(scheme, str) else scheme.name


def _reward(recipe: Recipe) -> str:
    reward = recipe.reward
    parts = []
    if reward.accuracy:
        unlabelled = " (no label: the unmasked teacher's answer)" if reward.unlabelled == "teacher" else ""
        parts.append(f"R_acc by {reward.metric}{unlabelled}")
    if reward.distillation:
        parts.append("R_distill")
    if reward.policy == "auto":
        return f"{' + '.join(parts)}, policy auto: chosen once the responses are scored"
    beta = f", beta {reward.kl_beta:g}" if reward.policy == "paper" else ""
    return f"{' + '.join(parts)}, policy {reward.policy}, weight {reward.weight:g}{beta}"
