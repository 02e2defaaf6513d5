"""The arms of an ablation: a recipe with a few values changed each, in groups that answer one question.

Every arm has the recipe's optimizer steps and its sequences a step (questions x responses, repeats counted). Nothing
here loads a model.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from masters_edge.common.errors import UserError
from masters_edge.recipe import Recipe
from masters_edge.recipe.schedule import group_size

LADDER = (0.0, 0.05, 0.10, 0.15, 0.20)  # of r_max, METHOD 1
WEIGHTS = (0.1, 0.3, 1.0)  # of the policy term
UNTOUCHED = "untouched"
MULTI, MASKED, REWARDED, NAIVE = "+ multi-response", "+ mask-progressive", "+ reward", "naive JSD"
NO_REWARD = "no reward"
# A teacher that stays whole: no mask, so neither its step nor the lengths of its stages are read.
WHOLE = ("mask.r_max=0", "mask.step=0.05", "mask.stage_lengths=null")


@dataclass(frozen=True, slots=True)
class Arm:
    """A row of a group's table."""

    name: str
    group: str
    overrides: tuple[str, ...] = ()
    against: tuple[str, ...] = ()  # names of arms of the same group
    condition: str | None = None
    trains: bool = True  # untouched: the student as it stands

    @property
    def title(self) -> str:
        return f"{self.condition}: {self.name}" if self.condition else self.name


@dataclass(frozen=True, slots=True)
class Condition:
    """Under what else the method is tried."""

    name: str
    overrides: tuple[str, ...] = ()
    labels_only: bool = False  # supervised learning is shown too


@dataclass(frozen=True, slots=True)
class Choices:
    """What the command line adds to the recipe; checkpoints are absolute folders or hub ids."""

    chain: tuple[str, ...] = ()  # smaller teachers, to stand before the recipe's own
    damaged: str | None = None  # the last teacher, masked for good
    damage: float = 0.0
    strong: str | None = None  # a student that already knows the task; may be one that an arm will leave


@dataclass(frozen=True)
class _Base:
    """The recipe's own numbers."""

    recipe: Recipe
    choices: Choices = field(default_factory=Choices)

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.recipe.train.phases)

    def phase(self, objective: str) -> str:
        return f"train.phases=[{{objective: {objective}, steps: {self.steps}}}]"

    @property
    def distill(self) -> tuple[str, ...]:
        return (self.phase("distill"),)

    @property
    def joint(self) -> tuple[str, ...]:
        return (self.phase("joint"),)

    @property
    def multi(self) -> tuple[str, ...]:
        return (*self.distill, *WHOLE)

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.phase("labels"),)

    def drawn(self, student: int, teacher: int, questions: int | None = None) -> tuple[str, ...]:
        """So many responses a question; `questions` a step where they change.

        Distillation alone reads no R_acc: such arms, which visit other questions, spare the teacher's own labels.
        """
        own = self.recipe.train.questions_per_step
        budget: tuple[str, ...] = ()
        if questions not in (None, own):
            budget = (f"train.questions_per_step={questions}", "reward.unlabelled=none")
        return ("responses.split=fixed", f"responses.student={student}", f"responses.teacher={teacher}", *budget)

    @property
    def single(self) -> tuple[str, ...]:
        """One response of the teacher to as many questions as there were sequences."""
        return self.drawn(0, 1, self.recipe.train.questions_per_step * group_size(self.recipe))


def arms(recipe: Recipe, choices: Choices | None = None, groups: Sequence[str] | None = None) -> list[Arm]:
    """Every arm of the groups, in the order of the tables; without `groups`, of all that the choices allow."""
    base = _Base(recipe, choices or Choices())
    return [arm for name in (groups or GROUPS) for arm in GROUPS[name](base)]


def chosen(found: Sequence[Arm], groups: Sequence[str], parts: Sequence[str]) -> list[Arm]:
    """The arms of the groups whose title holds one of the parts, and those that they are compared with.

    Raises:
        UserError: a part that no title holds.
    """
    within = [arm for arm in found if not groups or arm.group in groups]
    for part in parts:
        if not any(part in arm.title for arm in within):
            raise UserError(f"--arm {part}: no arm is named so; there are: {'; '.join(arm.title for arm in within)}")
    named = [arm for arm in within if not parts or any(part in arm.title for part in parts)]
    beside = {(arm.group, title) for arm in named for title in arm.against}
    return [arm for arm in within if arm in named or (arm.group, arm.title) in beside]


def _components(base: _Base) -> Iterator[Arm]:
    """METHOD 7's ladder, each rung against the one before."""
    rungs = [
        ("labels only", base.labels),
        (NAIVE, (*base.multi, *base.single)),
        (MULTI, base.multi),
        (MASKED, base.distill),
        (REWARDED, base.joint),
    ]
    yield Arm(UNTOUCHED, "components", trains=False)
    before = UNTOUCHED
    for name, overrides in rungs:
        yield Arm(name, "components", overrides, (before, NAIVE) if name == REWARDED else (before,))
        before = name
    if len(base.recipe.train.phases) > 1:
        yield Arm("the recipe's own phases", "components", (), (REWARDED,))


def _masks(base: _Base) -> Iterator[Arm]:
    ladder = [
        (f"r_max {r_max:.2f}", (f"mask.r_max={r_max:g}", "mask.step=0.05", "mask.stage_lengths=null"))
        for r_max in LADDER
    ]
    yield from _against_first(
        "masks",
        [
            (name, (*base.distill, *mask))
            for name, mask in [*ladder, ("r_max auto", ("mask.r_max=auto", "mask.stage_lengths=null"))]
        ],
    )


def _responses(base: _Base) -> Iterator[Arm]:
    group = group_size(base.recipe)
    half = (group // 2, group - group // 2)
    name = "{} of the student + {} of the teacher".format
    for student, teacher in ((group, 0), half, (0, group)):
        against = () if (student, teacher) == half else (name(*half),)
        yield Arm(name(student, teacher), "responses", (*base.joint, *base.drawn(student, teacher)), against)


def _split(base: _Base) -> Iterator[Arm]:
    """One budget of sequences: fewer responses to more questions."""
    student, teacher = base.recipe.responses.student, base.recipe.responses.teacher
    questions, found = base.recipe.train.questions_per_step, []
    while student + teacher > 1:
        name = f"{questions} questions x {student + teacher} responses ({student} + {teacher})"
        found.append((name, (*base.multi, *base.drawn(student, teacher, questions))))
        if student % 2 or teacher % 2:
            break
        student, teacher, questions = student // 2, teacher // 2, questions * 2
    total = base.recipe.train.questions_per_step * group_size(base.recipe)
    found.append((f"{total} questions x 1 response (the teacher's)", (*base.multi, *base.single)))
    found.append(("split auto", (*base.multi, "responses.split=auto")))
    yield from _against_first("split", found)


def _rewards(base: _Base) -> Iterator[Arm]:
    def reward(accuracy: bool, distillation: bool, min_max: bool = True, live: bool = False) -> tuple[str, ...]:
        values = dict(accuracy=accuracy, distillation=distillation, min_max=min_max, live=live)
        return (*base.joint, *(f"reward.{name}={str(value).lower()}" for name, value in values.items()))

    both = "R_acc + R_distill"
    yield from _against_first(
        "rewards",
        [
            (NO_REWARD, base.distill),
            ("R_acc", reward(True, False)),
            ("R_distill", reward(False, True)),
            (both, reward(True, True)),
            (f"{both}, without min-max", reward(True, True, min_max=False)),
            (f"{both}, R_distill live", reward(True, True, live=True)),
        ],
    )


def _policy(name: str, weight: float | str, beta: float | None = None) -> tuple[str, ...]:
    anchor = () if beta is None else (f"reward.kl_beta={beta:g}",)
    return (f"reward.policy={name}", f"reward.weight={weight}", *anchor)


def _policies(base: _Base) -> Iterator[Arm]:
    found = [(NO_REWARD, base.distill)]
    for weight, beta in ((1.0, 0.1), (1.0, 0.0), (0.1, 0.1)):
        found.append((f"paper, weight {weight:g}, beta {beta:g}", (*base.joint, *_policy("paper", weight, beta))))
    for policy, title in (("positive", "positive advantages"), ("truncated_is", "truncated importance weights")):
        found += [(f"{title}, weight {weight:g}", (*base.joint, *_policy(policy, weight))) for weight in WEIGHTS]
    yield from _against_first("policies", found)


def _chain(base: _Base) -> Iterator[Arm]:
    """The chain of teachers beside its largest and its smaller ones alone (the gap in size)."""
    if not base.choices.chain:
        return
    own = tuple(base.recipe.teachers)
    whole = (*base.choices.chain, *own)
    for title, objective in (("distillation", base.distill), ("with reward", base.joint)):

        def taught(by: Sequence[str], objective: tuple[str, ...] = objective) -> tuple[str, ...]:
            return (*objective, f"teachers=[{', '.join(map(quoted, by))}]", "mask.teacher_lengths=null")

        largest = f"largest teacher alone, {title}"
        yield Arm(largest, "chain", taught(own[-1:]))
        for number, smaller in enumerate(whole[:-1]):
            place = f" {number + 1}" if len(whole) > 2 else ""
            yield Arm(f"smaller teacher{place} alone, {title}", "chain", taught([smaller]), (largest,))
        yield Arm(f"chain of {len(whole)}, {title}", "chain", taught(whole), (largest,))


def conditions(choices: Choices) -> list[Condition]:
    """The conditions there are: the recipe's own first."""
    found = [Condition("as the recipe says")]
    if choices.damaged:
        teacher = f"teachers=[{quoted(choices.damaged)}]"
        name = f"damaged teacher (mask {choices.damage:g})"
        damaged = (teacher, "mask.teacher_lengths=null")
        found.append(Condition(name, damaged))
        # Where the teacher is wrong, a reward can say so only where a label does.
        found.append(Condition(f"{name}, every label", (*damaged, "data.labels=all")))
    if choices.strong:
        found.append(Condition("strong student", (f"student={quoted(choices.strong)}",)))
    found += [
        Condition("100 labels", ("data.labels=100",), labels_only=True),
        Condition("every label", ("data.labels=all",), labels_only=True),
    ]
    return found


def _conditions(base: _Base) -> Iterator[Arm]:
    reward = base.recipe.reward
    weight = reward.weight if reward.policy == "positive" and isinstance(reward.weight, float) else 0.1
    tried = [
        ("multi-response", base.multi),
        (MASKED, base.distill),
        ("+ reward, paper", (*base.joint, *_policy("paper", 1.0, 0.1))),
        ("+ reward, positive", (*base.joint, *_policy("positive", weight))),
        ("+ reward, truncated_is", (*base.joint, *_policy("truncated_is", 0.3))),
    ]
    for condition in conditions(base.choices):
        first = f"{condition.name}: {tried[0][0]}"
        for name, overrides in [*([("labels only", base.labels)] if condition.labels_only else []), *tried]:
            against = () if name == tried[0][0] else (first,)
            yield Arm(name, "conditions", (*overrides, *condition.overrides), against, condition.name)


def _against_first(group: str, rows: Sequence[tuple[str, tuple[str, ...]]]) -> Iterator[Arm]:
    first = Arm(rows[0][0], group, rows[0][1])
    yield first
    for name, overrides in rows[1:]:
        yield replace(first, name=name, overrides=overrides, against=(first.name,))


def quoted(name: str) -> str:
    """A YAML string, whatever is in a path."""
    return json.dumps(name, ensure_ascii=False)


GROUPS: dict[str, Callable[[_Base], Iterator[Arm]]] = {
    "components": _components,
    "masks": _masks,
    "responses": _responses,
    "split": _split,
    "rewards": _rewards,
    "policies": _policies,
    "chain": _chain,
    "conditions": _conditions,
}
TITLES = {
    "components": "What each part adds",
    "masks": "How much the teacher is masked at first",
    "responses": "Whose responses",
    "split": "More questions or more responses",
    "rewards": "Which reward",
    "policies": "Which policy term",
    "chain": "One teacher or a chain",
    "conditions": "Under which conditions",
}
