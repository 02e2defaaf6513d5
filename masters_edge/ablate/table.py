"""ablation.md: a table for each group of arms, from the values of `ablation.json`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from masters_edge.benchmarks.report.markdown import escape
from masters_edge.benchmarks.report.markdown import table as rows_of
from masters_edge.scoring.metrics import wilson_interval


def render(found: Mapping[str, Any]) -> str:
    """The whole file."""
    lines = [f"# Ablation of {escape(found['recipe'])}", "", *_how(found)]
    for group in found["groups"]:
        lines += [f"## {escape(group['title'])}", "", *_group(group, found["seeds"])]
    lines += [*_models(found["models"]), *_responses(found["groups"])]
    lines += ["## Made with", "", "```bash", found["command"], "```", ""]
    facts = [(name, str(value)) for name, value in {**found["machine"], **found["versions"]}.items()]
    return "\n".join([*lines, *rows_of(["what", "value"], facts, 2), ""])


def _how(found: Mapping[str, Any]) -> Iterator[str]:
    seeds, test = found["seeds"], found["test"]
    if test is None:
        yield from ("Nothing is measured yet.", "")
        return
    middle = [arm["mean"] for group in found["groups"] for arm in group["arms"] if arm.get("mean") is not None]
    share = sum(middle) / len(middle) / 100 if middle else 0.5
    low, high = wilson_interval(share * test["asked"], test["asked"])
    compared = sum(len(arm["against"]) for group in found["groups"] for arm in group["arms"])
    yield escape(
        f"Accuracy in % on {test['asked']:,} questions ({test['source']}, {test['metric']}), greedy answers of the "
        f"student at the end of its training; {len(seeds)} {'seeds' if len(seeds) > 1 else 'seed'} "
        f"({', '.join(map(str, seeds))}). A seed fixes the held-out questions, the labels kept, the order and the "
        "sampling."
    )
    yield ""
    yield escape(
        "Intervals are 95% by Student's t over the seeds: what another seed might have given. They don't cover the "
        f"choice of test questions, which all arms share (±{50 * (high - low):.1f} points for one arm's accuracy). "
        "Differences are paired seed by seed; better and worse stand where their interval excludes 0. Of the "
        f"{compared} differences here, {compared / 20:.1f} would be expected to do so by chance alone."
    )
    yield ""
    if missing := _missing(found):
        yield escape(f"Preliminary: {missing} trainings are still to come.")
        yield ""


def _missing(found: Mapping[str, Any]) -> int:
    done = {}
    for group in found["groups"]:
        for arm in group["arms"]:
            if arm["trained"] and not arm["refused"]:
                done[arm["folder"]] = len(found["seeds"]) - len(arm["seeds"]) - len(arm["failed"])
    return sum(done.values())


def _group(group: Mapping[str, Any], seeds: Sequence[int]) -> Iterator[str]:
    headings = ["arm", "steps", "sequences a step", "mean", "95% interval", "each seed", "difference", "seconds"]
    rows, notes = [], []
    for arm in group["arms"]:
        if arm["refused"]:
            notes.append(f"{arm['title']} is refused: {arm['refused']}")
        notes += [f"{arm['title']}, seed {seed}, failed: {sentence}" for seed, sentence in arm["failed"].items()]
        rows.append(
            [
                arm["title"],
                f"{arm['steps']:,}" if arm["steps"] else "–",
                str(arm["sequences"] or "–"),
                _number(arm.get("mean")),
                interval(arm),
                _each(arm, seeds),
                "; ".join(f"{difference(d)} against {d['arm']}" for d in arm["against"]) or "–",
                seconds(arm),
            ]
        )
    yield from rows_of(headings, rows, 1)
    yield ""
    for note in notes:
        yield f"- {escape(note)}"
    if notes:
        yield ""


def _each(arm: Mapping[str, Any], seeds: Sequence[int]) -> str:
    values = arm["seeds"]
    if not arm["trained"] and len(set(values.values())) == 1:
        return "–"
    return ", ".join(_number(values.get(str(seed))) for seed in seeds)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def interval(found: Mapping[str, Any]) -> str:
    """ "84.1 to 86.3"; "–" where there is none."""
    return "–" if found.get("low") is None else f"{found['low']:.1f} to {found['high']:.1f}"


def difference(found: Mapping[str, Any]) -> str:
    """ "+1.2 (0.3 to 2.1), better"."""
    text = f"{found['mean']:+.1f}"
    if found["low"] is not None:
        # A bound that would read as zero gets the decimal that tells on which side of it it lies.
        low, high = (f"{end:+.2f}" if abs(end) < 0.05 else f"{end:+.1f}" for end in (found["low"], found["high"]))
        text += f" ({low} to {high})"
    return text + (f", {found['verdict']}" if found["verdict"] else "")


def seconds(arm: Mapping[str, Any]) -> str:
    """Training, and all of it with the responses that the arm made itself."""
    if arm["training_seconds"] is None:
        return "–"
    return f"{arm['training_seconds']:.0f} of {arm['seconds']:.0f}"


def _models(models: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not models:
        return
    yield from ("## Before training", "")
    rows = []
    for model in models:
        labelled = model["labelled"]
        known = f"{labelled['accuracy']:.1f} of {labelled['asked']}" if labelled else "–"
        rows.append([model["name"], _number(model["accuracy"]), known, str(model["seed"])])
    headings = ["checkpoint", "test questions", "labelled training questions", "seed of these"]
    yield from rows_of(headings, rows, 1)
    yield ""


def _responses(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What could be known of each condition's responses before training; `auto` chooses by it."""
    rows = {}
    for group in groups:
        for arm in group["arms"]:
            known = arm["responses"]
            if group["name"] not in ("components", "conditions") or not known or known["teacher"] is None:
                continue
            rows[arm["condition"] or "as the recipe says"] = [
                _per_cent(known["teacher"]),
                _per_cent(known["student"]),
                f"{known['distinct'] / known['groups']:.1f} of {known['responses'] / known['groups']:.0f}",
                _per_cent(known["no_advantage"]),
                " or ".join(known["auto"]),
            ]
    if not rows:
        return
    yield from ("## Responses before training", "")
    headings = ["condition", "teacher's right, %", "student's right, %", "different ones", "groups all alike, %"]
    yield from rows_of([*headings, "reward.policy auto"], [[name, *values] for name, values in rows.items()], 1)
    yield ""
    yield escape(
        "Right: on the training questions that keep a label. All alike: no response of the group is better than "
        "another, so no advantage, only the KL. The last column is what reward.policy: auto takes by these figures."
    )
    yield ""


def _per_cent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"
