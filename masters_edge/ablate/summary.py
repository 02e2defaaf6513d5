"""What an ablation found, as the values of `ablation.json`: the table and the plot are drawn from these alone."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from masters_edge.ablate.arms import TITLES
from masters_edge.ablate.experiments import Entry, Experiment
from masters_edge.ablate.running import Outcomes
from masters_edge.ablate.statistics import Estimate, estimate, paired
from masters_edge.common.errors import UserError
from masters_edge.recipe import Recipe

SCHEMA_VERSION = 1
_MEANS = ("training_seconds", "seconds", "held_out", "no_advantage", "r_acc", "unscored")


def summarize(
    recipe_path: Path,
    recipe: Recipe,
    command: str,
    entries: Sequence[Entry],
    experiments: Sequence[Experiment],
    seeds: Sequence[int],
    outcomes: Outcomes,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """All that is known by now. `facts`: what stays the same for the whole command (versions, machine, ...).

    Raises:
        UserError: the arms were not asked the same questions.
    """
    once = recipe.data.test is not None  # every seed is asked the same
    groups = []
    for name in dict.fromkeys(entry.arm.group for entry in entries):
        own = [entry for entry in entries if entry.arm.group == name]
        accuracy = {entry.arm.title: _accuracy(entry, seeds, outcomes, once) for entry in own}
        arms = [_arm(entry, accuracy, seeds, outcomes) for entry in own]
        groups.append({"name": name, "title": TITLES[name], "arms": arms})
    return {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "recipe": recipe_path.name,
        **facts,
        "seeds": list(seeds),
        "test": _test(outcomes, per_seed=not once),
        "labels": recipe.data.labels,
        "models": [
            _model(one, outcomes) for one in experiments if one.source is not None and one.name in outcomes.found
        ],
        "groups": groups,
    }


def _arm(
    entry: Entry, accuracy: Mapping[str, Mapping[int, float]], seeds: Sequence[int], outcomes: Outcomes
) -> dict[str, Any]:
    arm, own = entry.arm, accuracy[entry.arm.title]
    names = {seed: f"{entry.slug}-{seed}" for seed in seeds}
    found = [outcomes.found[name] for name in names.values() if name in outcomes.found]
    means = {key: [result[key] for result in found if result.get(key) is not None] for key in _MEANS}
    row: dict[str, Any] = {
        "name": arm.name,
        "title": arm.title,
        "condition": arm.condition,
        "trained": arm.trains,
        "overrides": list(arm.overrides),
        "folder": entry.slug,
        "refused": entry.refused,
        "failed": {str(seed): outcomes.failed[name] for seed, name in names.items() if name in outcomes.failed},
        "steps": entry.steps,
        "sequences": entry.sequences,
        "seeds": {str(seed): value for seed, value in own.items()},
        **{key: statistics.fmean(values) if values else None for key, values in means.items()},
        "responses": _responses(found),
    }
    if not arm.trains and own and len(set(own.values())) == 1:
        row |= _values(Estimate(next(iter(own.values())), 1))  # one measurement, whatever the seed
    elif own:
        row |= _values(estimate(list(own.values())))
    row["against"] = []
    for other in arm.against:
        difference = paired(own, accuracy.get(other, {}))
        if difference is not None:
            row["against"].append({"arm": other, **_values(difference), "verdict": difference.verdict})
    return row


def _responses(found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Means over the seeds of what the responses were like, and what `auto` would take with each seed."""
    known = [result for result in found if result.get("responses")]
    if not known:
        return None
    values: dict[str, Any] = {}
    for name in known[0]["responses"]:
        numbers = [result["responses"][name] for result in known if result["responses"][name] is not None]
        values[name] = statistics.fmean(numbers) if numbers else None
    return {**values, "auto": sorted({f"{r['auto']['policy']}, weight {r['auto']['weight']:g}" for r in known})}


def _accuracy(entry: Entry, seeds: Sequence[int], outcomes: Outcomes, once: bool) -> dict[int, float]:
    """Test accuracy in % by seed; an untouched student that was measured once has it for every seed."""
    known = {
        seed: outcomes.found[name]["test"]["accuracy"]
        for seed in seeds
        if (name := f"{entry.slug}-{seed}") in outcomes.found
    }
    if not entry.arm.trains and once:
        return dict.fromkeys(seeds, known[seeds[0]]) if known else {}
    return known


def _values(found: Estimate) -> dict[str, Any]:
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}


def _test(outcomes: Outcomes, per_seed: bool) -> dict[str, Any] | None:
    tests = [result["test"] for result in outcomes.found.values()]
    if not tests:
        return None
    if not per_seed and len({(test["sha256"], test["metric"]) for test in tests}) > 1:
        raise UserError(
            "the arms in this folder were not asked the same test questions (--questions, or the data, changed); give "
            "a new --out"
        )
    return {key: tests[0][key] for key in ("source", "metric", "asked")} | (
        {} if per_seed else {"sha256": tests[0]["sha256"]}
    )


def _model(experiment: Experiment, outcomes: Outcomes) -> dict[str, Any]:
    found = outcomes.found[experiment.name]
    return {
        "name": experiment.title,
        "seed": experiment.seed,
        "accuracy": found["test"]["accuracy"],
        "labelled": found.get("labelled"),
    }
