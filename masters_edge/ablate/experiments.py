"""What an ablation has to run: arms that come to the same recipe are one experiment, trained once for each seed.

In: the recipe, the arms, the seeds. Out: for each arm its experiment, or the sentence that refuses it; and the
experiments in the order in which they make the most of each other's responses. Nothing here loads a model.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masters_edge import recipe as recipes
from masters_edge.ablate.arms import Arm
from masters_edge.common.errors import UserError
from masters_edge.recipe import Recipe
from masters_edge.run import outline

# What changes speed, memory or the screen, or comes after training.
_UNTRAINED = ("seed", "run_dir", "export", "bench")
_UNTRAINED_BY = ("threads", "trackers", "log_every", "eval_every", "save_every")


@dataclass(frozen=True, slots=True)
class Entry:
    """An arm and what becomes of it."""

    arm: Arm
    slug: str | None = None  # of its experiment
    refused: str | None = None  # why it has none
    steps: int = 0
    sequences: int = 0  # a step; of an arm with several phases, the most
    recipe: Recipe | None = None


@dataclass(frozen=True, slots=True)
class Experiment:
    """One recipe, trained and measured with one seed; or, with `source`, a checkpoint that is measured alone."""

    slug: str
    seed: int
    title: str
    digest: str  # of what is trained, seed included
    overrides: tuple[str, ...] = ()
    source: str | None = None
    makes: str = ""  # what its responses follow from; empty where it has none
    rewarded: bool = False
    needs: str | None = None  # slug and seed of the experiment whose student it starts from

    @property
    def name(self) -> str:
        return f"{self.slug}-{self.seed}"

    def folder(self, out: Path) -> Path:
        return out / ("arms" if self.source is None else "models") / self.name


def entries(recipe_path: Path, overrides: Sequence[str], found: Sequence[Arm]) -> list[Entry]:
    """Each arm with its experiment's slug; arms whose recipes train the same have one slug, that of the first."""
    slugs: dict[str, str] = {}
    known = []
    for arm in found:
        if not arm.trains:
            known.append(Entry(arm, slug_of(arm.title)))
            continue
        try:
            recipe = recipes.load(recipe_path, [*overrides, *arm.overrides])
        except UserError as error:
            known.append(Entry(arm, refused=str(error)))
            continue
        digest = _digest(essence(recipe))
        if digest not in slugs:
            slug = name = slug_of(arm.title)
            number = 1
            while slug in slugs.values():
                number += 1
                slug = f"{name}-{number}"
            slugs[digest] = slug
        phases = list(outline.phases(recipe))
        steps, most = sum(p.phase.steps for p in phases), max(p.sequences_per_step for p in phases)
        known.append(Entry(arm, slugs[digest], steps=steps, sequences=most, recipe=recipe))
    return known


def planned(
    overrides: Sequence[str],
    every: Sequence[Entry],
    wanted: Sequence[Entry],
    seeds: Sequence[int],
    out: Path,
) -> list[Experiment]:
    """The trainings behind the `wanted` entries, seed by seed: after the first seed there is a whole table.

    `every`: all entries that there are, in whichever call: an experiment comes out the same whatever is wanted with it.
    """
    trained = [(entry, entry.slug, entry.recipe) for entry in every if entry.slug and entry.recipe]
    scored = {_makes(recipe) for _, _, recipe in trained if _rewarded(recipe)}  # responses that a reward looks at
    slugs = {entry.slug for entry in wanted}
    students = {str(out / "arms" / f"{slug}-{seed}" / "student"): f"{slug}-{seed}" for slug in slugs for seed in seeds}
    found: dict[str, Experiment] = {}
    for entry, slug, recipe in trained:
        if slug not in slugs or f"{slug}-{seeds[0]}" in found:
            continue
        own, makes = (*overrides, *entry.arm.overrides), _makes(recipe)
        if makes not in scored:
            own = (*own, "reward.unlabelled=none")  # nobody asks what the teacher would answer
        for seed in seeds:
            found[f"{slug}-{seed}"] = Experiment(
                slug,
                seed,
                entry.arm.title,
                digest=_digest({**essence(recipe), "seed": seed}),
                overrides=(*own, f"seed={seed}"),
                makes=makes and f"{makes} {seed}",
                rewarded=_rewarded(recipe),
                needs=students.get(recipe.student),
            )
    return list(_in_order(list(found.values())))


def _in_order(found: Sequence[Experiment]) -> Iterator[Experiment]:
    """Seed by seed; within one, what shares responses together, those with a reward first: they score the most."""
    groups = list(dict.fromkeys((one.seed, one.makes) for one in found))
    yield from sorted(
        found, key=lambda one: (one.seed, one.needs is not None, groups.index((one.seed, one.makes)), not one.rewarded)
    )


def essence(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides the student that comes out, the seed apart."""
    values = recipe.model_dump(mode="json")
    for name in _UNTRAINED:
        values.pop(name)
    for name in _UNTRAINED_BY:
        values["train"].pop(name)
    values["responses"].pop("shared", None)
    values["quantize"] = values["quantize"]["qat"]
    objectives = {phase.objective for phase in recipe.train.phases}
    if recipe.mask.r_max == 0:
        values["mask"] = 0
    if not _rewarded(recipe):
        values["reward"] = recipe.reward.metric
    elif recipe.reward.policy != "paper":
        for name in ("kl_beta", "reference"):  # the paper's alone has an anchor
            values["reward"].pop(name)
        if recipe.reward.policy == "auto":
            values["reward"].pop("weight")
    if objectives == {"labels"}:
        per_step = next(outline.phases(recipe)).sequences_per_step
        values["train"] |= {"questions_per_step": per_step, "teacher_logits": None, "teacher_top_k": None}
        for name in ("mask", "responses", "reward", "teachers"):
            values.pop(name)
    elif objectives == {"distill"}:
        values["data"].pop("labels")  # nothing asks for one
    return values


def _rewarded(recipe: Recipe) -> bool:
    return any(phase.objective in ("joint", "reward") for phase in recipe.train.phases)


def _makes(recipe: Recipe) -> str:
    """What an experiment's responses follow from beside the seed: experiments with the same one share them."""
    if all(phase.objective == "labels" for phase in recipe.train.phases):
        return ""
    values = essence(recipe)
    train = {name: values["train"][name] for name in ("questions_per_step", "teacher_logits", "teacher_top_k")}
    source = {name: value for name, value in values["data"].items() if name != "labels"}
    same = {name: values[name] for name in ("student", "teachers", "mask", "responses")}
    return _digest({**same, "train": train, "data": source})


def slug_of(title: str) -> str:
    """A folder's name: letters and digits, the rest as single hyphens."""
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in title.lower()).split())


def measurement(slug: str, title: str, source: str, recipe: Recipe, overrides: Sequence[str], seed: int) -> Experiment:
    """A checkpoint that is measured as it stands, on the questions of this recipe."""
    asked = {"source": source, "data": recipe.data.model_dump(mode="json"), "metric": recipe.bench.metric, "seed": seed}
    return Experiment(slug, seed, title, _digest(asked), (*overrides, f"seed={seed}"), source=source)


def digest_of(recipe: Recipe) -> str:
    """sha256 of the whole recipe."""
    return _digest(recipe.model_dump(mode="json"))


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
