"""The command itself: from the command line to arms, experiments, workers, and the files that say what was found."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from masters_edge import recipe as recipes
from masters_edge.ablate import arms as known
from masters_edge.ablate import experiments
from masters_edge.ablate.arms import Choices
from masters_edge.ablate.experiments import Entry, Experiment
from masters_edge.common.display import say
from masters_edge.common.errors import UserError
from masters_edge.common.files import at_home, write_json, write_text
from masters_edge.recipe import Recipe
from masters_edge.run import folder as runs

_REDRAWN_S = 120  # seconds between two drawings of a plot that is not final


@dataclass(frozen=True)
class AblateOptions:
    """The command line."""

    recipe: Path
    overrides: tuple[str, ...]
    seeds: int
    jobs: int
    out: Path
    groups: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()  # parts of their names; empty for all of the groups
    chain: tuple[str, ...] = ()
    damage: float | None = None
    strong: str | None = None
    questions: int | None = None

    @property
    def line(self) -> str:
        """What repeats it."""
        words = ["masters-edge", "ablate", str(self.recipe), *self.overrides]
        words += ["--seeds", str(self.seeds), "--jobs", str(self.jobs), "--out", str(self.out)]
        for option, values in (("--group", self.groups), ("--arm", self.arms), ("--chain", self.chain)):
            words += [word for value in values for word in (option, value)]
        for option, value in (("--damage", self.damage), ("--strong", self.strong), ("--questions", self.questions)):
            words += [] if value is None else [option, f"{value}"]
        return shlex.join(words)


@dataclass(frozen=True)
class Ablation:
    """What a command line comes to: the experiments, and what they share."""

    recipe: Recipe
    overrides: tuple[str, ...]  # of every arm
    seeds: tuple[int, ...]
    entries: list[Entry]
    experiments: list[Experiment]
    damaged: Path | None


def ablate(asked: AblateOptions, *, dry_run: bool = False) -> dict[str, str]:
    """Run the ablation, or go on with it; returns the failures, sentences by experiment.

    Raises:
        UserError: a recipe, group or checkpoint that isn't there, or an --out of another ablation.
    """
    ablation = _ablation(asked)
    if dry_run:
        _show(ablation)
        return {}
    from masters_edge.ablate import running

    asked.out.mkdir(parents=True, exist_ok=True)
    with runs.lock(asked.out):
        if ablation.damaged is not None:
            _damage(ablation, asked)
        report = _Report(ablation, asked)
        outcomes = running.run(
            ablation.experiments,
            asked.out,
            asked.recipe,
            workers=asked.jobs,
            questions=asked.questions,
            on_change=report,
        )
        report.finish(outcomes)
    return outcomes.failed


def _ablation(asked: AblateOptions) -> Ablation:
    for name in asked.groups:
        if name not in known.GROUPS:
            raise UserError(f"--group {name}: there is no such group of arms; known: {', '.join(known.GROUPS)}")
    for override in asked.overrides:
        if override.startswith(("run_dir=", "responses.shared=")):
            raise UserError(f"override {override!r}: an ablation keeps runs and responses below --out; leave this out")
    if asked.groups and "chain" in asked.groups and not asked.chain:
        raise UserError("--group chain compares teachers; name the smaller ones with --chain")
    recipe = recipes.load(asked.recipe, asked.overrides)
    seeds = tuple(range(recipe.seed, recipe.seed + asked.seeds))
    out = asked.out.resolve()
    overrides = (
        *([] if asked.jobs == 1 else ["train.threads=1"]),
        "train.trackers=[none]",
        f"train.eval_every={sum(phase.steps for phase in recipe.train.phases)}",
        *asked.overrides,
        f"responses.shared={known.quoted(str(out / 'shared'))}",
    )
    damaged = None if asked.damage is None else out / "models" / f"damaged-{asked.damage:g}"
    for name in (recipe.student, *recipe.teachers):
        recipes.checkpoint(name, asked.recipe)
    choices = Choices(
        chain=tuple(_checkpoint(name, "--chain") for name in asked.chain),
        damaged=None if damaged is None else str(damaged),
        damage=asked.damage or 0.0,
        strong=_checkpoint(asked.strong, "--strong") if asked.strong else None,
    )
    if asked.strong is None:  # the student of an arm, which stands in a folder of its own
        arm = next(arm for arm in known.arms(recipe, choices, ["components"]) if arm.name == known.MULTI)
        slug = experiments.entries(asked.recipe, overrides, [arm])[0].slug
        if slug is not None:
            choices = replace(choices, strong=str(out / "arms" / f"{slug}-{seeds[0]}" / "student"))
    every = experiments.entries(asked.recipe, overrides, known.arms(recipe, choices))
    wanted = known.chosen([entry.arm for entry in every], asked.groups, asked.arms)
    entries = [entry for entry in every if entry.arm in wanted]
    found = experiments.planned(overrides, every, entries, seeds, out)
    students = {str(one.folder(out) / "student"): one.name for one in found}
    models = [
        replace(model, needs=students.get(str(model.source)))
        for model in _models(recipe, overrides, choices, entries, seeds)
    ]
    return Ablation(recipe, overrides, seeds, entries, [*models, *found], damaged)


def _models(
    recipe: Recipe,
    overrides: Sequence[str],
    choices: Choices,
    entries: Sequence[Entry],
    seeds: Sequence[int],
) -> list[Experiment]:
    """Checkpoints to measure as they stand: once, or for each seed where the seed chooses the questions."""
    groups = {entry.arm.group for entry in entries}
    sources = {known.UNTOUCHED: ("untouched student", recipe.student)}
    for number, teacher in enumerate(recipe.teachers):
        name = "teacher" if len(recipe.teachers) == 1 else f"teacher {number + 1}"
        sources[experiments.slug_of(name)] = (name, teacher)
    if "chain" in groups:
        for number, teacher in enumerate(choices.chain):
            sources[f"smaller-teacher-{number + 1}"] = (f"smaller teacher {number + 1}", teacher)
    if "conditions" in groups:
        if choices.damaged:
            sources["damaged-teacher"] = (f"damaged teacher (mask {choices.damage:g})", choices.damaged)
        if choices.strong:
            sources["strong-student"] = ("strong student", choices.strong)
    asked = seeds[:1] if recipe.data.test is not None else seeds
    return [
        experiments.measurement(slug, title, source, recipe, overrides, seed)
        for slug, (title, source) in sources.items()
        for seed in asked
    ]


def _checkpoint(name: str, option: str) -> str:
    """A folder as an absolute path, or a hub id."""
    folder = at_home(name)
    if folder.is_dir():
        return str(folder.resolve())
    if name.startswith((".", "/", "~")):
        raise UserError(f"{option}: there is no checkpoint folder {name}; mend the path")
    return name


def _damage(ablation: Ablation, asked: AblateOptions) -> None:
    """The last teacher, masked for good: one that is often wrong."""
    assert ablation.damaged is not None and asked.damage is not None
    if (ablation.damaged / "config.json").exists():
        return
    from masters_edge.teacher.masked_checkpoint import mask_checkpoint

    teacher = recipes.checkpoint(ablation.recipe.teachers[-1], asked.recipe)
    mask_checkpoint(teacher, ablation.damaged, asked.damage)


def _show(ablation: Ablation) -> None:
    for group in dict.fromkeys(entry.arm.group for entry in ablation.entries):
        say(f"{group}: {known.TITLES[group]}")
        for entry in (e for e in ablation.entries if e.arm.group == group):
            what = entry.refused or (
                f"{entry.steps:,} steps of {entry.sequences} sequences" if entry.arm.trains else "measured as it is"
            )
            say(f"  {entry.arm.title}: {'refused: ' if entry.refused else ''}{what}")
    trained = [one for one in ablation.experiments if one.source is None]
    arms = len({one.slug for one in trained})
    sets = len({one.makes for one in trained} - {""})
    say(
        f"{len(ablation.entries)} arms, {arms} of them different; with {len(ablation.seeds)} seeds "
        f"{len(trained)} trainings, which share {sets} sets of responses"
    )


class _Report:
    """Writes ablation.json, ablation.md and ablation.png as results come in."""

    def __init__(self, ablation: Ablation, asked: AblateOptions) -> None:
        from masters_edge.benchmarks import machine

        self.ablation, self.asked, self.drawn = ablation, asked, time.monotonic()
        device = machine.describe()
        device.pop("name")
        self.facts: dict[str, Any] = {
            "recipe_sha256": experiments.digest_of(ablation.recipe),
            "versions": runs.versions_here(),
            "machine": device,
            "jobs": asked.jobs,
        }

    def __call__(self, outcomes: Any) -> None:
        self._write(outcomes, draw=time.monotonic() - self.drawn > _REDRAWN_S)

    def finish(self, outcomes: Any) -> None:
        self._write(outcomes, draw=True)
        say(f"{self.asked.out / 'ablation.md'} (.json, .png)")

    def _write(self, outcomes: Any, draw: bool) -> None:
        from masters_edge.ablate import plot, table
        from masters_edge.ablate.summary import summarize

        ablation, asked = self.ablation, self.asked
        found = summarize(
            asked.recipe,
            ablation.recipe,
            asked.line,
            ablation.entries,
            ablation.experiments,
            ablation.seeds,
            outcomes,
            self.facts,
        )
        write_json(asked.out / "ablation.json", found)
        write_text(asked.out / "ablation.md", table.render(found))
        if draw:
            plot.draw(found, asked.out / "ablation.png")
            self.drawn = time.monotonic()
