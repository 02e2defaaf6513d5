"""What the recipe leaves to `auto`, chosen from what is known before training: the policy term, and how a step's
sequences are dealt out to questions.

In: the responses of a phase, or those to a few questions asked ahead. Out: the recipe with plain values in place of
`auto`, and the choice with the figures it was made from as JSON in the phase's folder, which a resumed run reads. The
thresholds come from measurements (docs/results/ablation.md).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from masters_edge.common.files import read_fields, write_json
from masters_edge.recipe import Phase, Recipe
from masters_edge.recipe.schedule import group_size
from masters_edge.responses.summary import Summary

SCHEMA_VERSION = 1
POLICY_FILE, SPLIT_FILE = "policy.json", "split.json"
OFTEN_WRONG = 0.5  # a teacher below this share of right responses needs correcting, not only following
MANY_LABELS = 0.5  # share of groups with a label of their own from which on labels can correct it
ASKED = 128  # questions asked ahead for the split


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy term with its settings, and why."""

    policy: Literal["paper", "positive", "truncated_is"]
    weight: Annotated[float, Field(ge=0)]
    kl_beta: Annotated[float, Field(ge=0)]
    why: str


@dataclass(frozen=True, slots=True)
class Split:
    """Responses a question by student and teacher, questions a step, and why."""

    student: Annotated[int, Field(ge=0)]
    teacher: Annotated[int, Field(ge=0)]
    questions_per_step: Annotated[int, Field(ge=1)]
    why: str


def policy(summary: Summary) -> Policy:
    """The policy term for responses like these (METHOD 8).

    Where the teacher is often wrong and labels (or a judge who has them) say where, the truncated term is worth most.
    Elsewhere no term was found to be worth anything, and positive advantages with a small weight cost nothing either.
    The paper's term, which cost many points wherever the teacher is right, is never chosen: name it to have it.
    """
    if summary.teacher is None:
        return Policy("positive", 0.1, 0.0, "no response was scored against a label")
    right = f"the teacher's responses are right on {100 * summary.teacher:.0f}% of the labelled questions"
    if summary.teacher >= OFTEN_WRONG:
        return Policy("positive", 0.1, 0.0, f"{right}: it can be followed")
    labelled = f"{100 * summary.labelled:.0f}% of the groups have a label"
    if summary.labelled >= MANY_LABELS:
        return Policy("truncated_is", 0.3, 0.0, f"{right}: it is often wrong, and {labelled} that says where")
    return Policy("positive", 0.1, 0.0, f"{right}: it is often wrong, but only {labelled} that says where")


def settle_policy(recipe: Recipe, summary: Summary, out: Path) -> Recipe:
    """The recipe with a policy term in place of `auto`."""
    if recipe.reward.policy != "auto":
        return recipe
    if out.exists():
        chosen = read_fields(out, SCHEMA_VERSION, Policy)
    else:
        chosen = policy(summary)
        _keep(out, chosen, summary=asdict(summary))
    values = {"policy": chosen.policy, "weight": chosen.weight, "kl_beta": chosen.kl_beta}
    return recipe.model_copy(update={"reward": recipe.reward.model_copy(update=values)})


def split(recipe: Recipe, phase: Phase, distinct: float, pool: int) -> Split:
    """As many sequences a step, over more questions with fewer responses each, as long as a question's responses are
    fewer than there would be different ones, and no question is visited twice for it.

    Args:
        distinct: mean number of different responses among a group's.
        pool: training questions (count).
    """
    size, per_step = group_size(recipe), recipe.train.questions_per_step
    smallest = 1 if phase.objective == "distill" else 2
    whole = size
    while size % 2 == 0 and size // 2 >= max(distinct, smallest) and 2 * per_step * phase.steps <= pool:
        size, per_step = size // 2, per_step * 2
    if size == whole:
        student, teacher = recipe.responses.student, recipe.responses.teacher
    else:
        student = round(size * recipe.responses.student / whole) if size > 1 else 0
        teacher = size - student
    return Split(student, teacher, per_step, f"{distinct:.1f} of {whole} responses to a question are different")


def settle_split(recipe: Recipe, phase: Phase, pool: int, out: Path, measure: Callable[[], float]) -> Recipe:
    """The recipe with its step's sequences dealt out anew, where `responses.split` is `auto`.

    `measure`: asks a few questions and returns how many different responses a group has in the mean.
    """
    if recipe.responses.split != "auto" or phase.objective == "labels":
        return recipe
    if out.exists():
        chosen = read_fields(out, SCHEMA_VERSION, Split)
    else:
        chosen = split(recipe, phase, measure(), pool)
        _keep(out, chosen)
    counts = {"student": chosen.student, "teacher": chosen.teacher}
    train = recipe.train.model_copy(update={"questions_per_step": chosen.questions_per_step})
    return recipe.model_copy(
        update={"responses": recipe.responses.model_copy(update=counts), "train": train},
    )


def distinct(drawn: Mapping[str, Sequence[Any]]) -> float:
    """Mean number of different responses to a question; `drawn`: its (token ids, speaker) pairs by question id."""
    return sum(len({ids for ids, _ in said}) for said in drawn.values()) / len(drawn)


def _keep(out: Path, chosen: Policy | Split, **beside: Any) -> None:
    write_json(out, {"schema_version": SCHEMA_VERSION, **asdict(chosen), **beside})
