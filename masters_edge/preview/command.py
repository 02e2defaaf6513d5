"""`masters-edge preview`: find the architecture, say what it takes, make it up, export it, measure it, show it.

What is there already is used again, so that the same command goes on after an interruption.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from masters_edge.common.display import console, progress, say
from masters_edge.common.errors import UserError

if TYPE_CHECKING:
    from masters_edge.benchmarks import Settings, Subject
    from masters_edge.preview.architecture import Architecture

SCHEMES = ("int4", "int8", "fp32")
QUESTIONS = 5  # that latency is measured on beside the cases
_QUESTIONS_OF_LARGE = 3


def preview(
    source: str,
    *,
    targets: Sequence[str] | None = None,
    schemes: Sequence[str] | None = None,
    device: str = "local",
    out: Path | None = None,
    how: "Settings | None" = None,
    yes: bool = False,
) -> Path:
    """Print what `source` costs on a device in each target and scheme; `how` has threads, and who may open a link.

    Returns:
        results.json, which `masters-edge report` draws.

    Raises:
        UserError: no such architecture, target or scheme, too little memory or disk, or nobody agreed to a long run.
    """
    from masters_edge.preview import cost, weights
    from masters_edge.preview.architecture import find

    found = find(source)
    wanted = _wanted(targets or ["onnx"], schemes, found)
    folder = out or Path("runs") / "preview" / found.name
    checkpoint = folder / "random-weights"
    say(f"{found.name}: {_millions(found.parameters)} M parameters (config: {found.shape.origin})")
    if found.processor is None:
        say(
            "A config alone has no tokenizer: a small one stands in, about as many tokens for a text as a real one. "
            "Answers and words mean nothing; the number of tokens counts."
        )
    missing = [(target, scheme) for target, scheme in wanted if not (folder / f"{target}-{scheme}").exists()]
    takes = cost.estimate(found.shape.parameters, missing, made=checkpoint.exists())
    if missing:
        say(f"It takes {takes.words}.")
        cost.check(takes, found.name, folder)
        _agreed(found, yes)
    with progress("random weights", 100) as bar:
        all_of_it = weights.stored_bytes(found.parameters)
        made = weights.build(found, checkpoint, lambda count: bar(advance=100 * count / all_of_it))
        bar(completed=100, note="done" if made else "made before")
    subjects = [_subject(found, checkpoint, folder, target, scheme) for target, scheme in wanted]
    return _measure(found, subjects, device, how, folder)


def _millions(count: int) -> str:
    return f"{count / 1e6:,.0f}" if count >= 1e8 else f"{count / 1e6:.3g}"


def _wanted(targets: Sequence[str], schemes: Sequence[str] | None, found: "Architecture") -> list[tuple[str, str]]:
    """Each target with each scheme that it can hold; what is left out is said."""
    from masters_edge.common import registry
    from masters_edge.common.quiet import hush
    from masters_edge.export import target_names
    from masters_edge.export import targets as known
    from masters_edge.preview import cost
    from masters_edge.quantization import by_part

    pairs = []
    plans = {scheme: by_part.plan(scheme) for scheme in schemes or SCHEMES}
    for target in dict.fromkeys(targets):
        registry.check(target, "target", target_names())
        able = registry.load(known, target).SCHEMES
        hush()  # torch's import gives its loggers levels of its own
        for scheme, parts in plans.items():
            unable = sorted({part.name for part in parts.parts.values()} - set(able))
            if unable and schemes is None:  # ExecuTorch has integers with int8 activations only
                scheme, unable = f"{scheme}-a8", []
            if unable:
                raise UserError(f"{target} can't hold {unable[0]} weights; use: {', '.join(able)}")
            if schemes is None and scheme == "fp32" and found.parameters > cost.LARGE:
                size = 4 * found.parameters / 1e9
                say(f"{target} fp32 is left out, {size:.1f} GB of weights; --quant fp32 takes it all the same.")
            else:
                pairs.append((target, scheme))
    return pairs


def _agreed(found: "Architecture", yes: bool) -> None:
    """Ask whether to start, where that is a long run. Raises UserError where nobody agreed."""
    from masters_edge.preview import cost

    if found.parameters < cost.LARGE or yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"{found.name} is large, so its preview takes long and much memory; start it with --yes")
    if console.input("Start? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("nothing was started")


def _subject(found: "Architecture", checkpoint: Path, folder: Path, target: str, scheme: str) -> "Subject":
    """The bundle, exported where it isn't there or isn't up to date."""
    from masters_edge.benchmarks import Subject
    from masters_edge.export.up_to_date import up_to_date
    from masters_edge.preview import exporting
    from masters_edge.quantization import by_part

    place = folder / f"{target}-{scheme}"
    with progress(f"{target} {scheme}", 100) as bar:
        if up_to_date(place, checkpoint, target, by_part.plan(scheme), "rtn"):
            bar(completed=100, note="exported before")
        else:
            exporting.export(
                checkpoint, target, scheme, place, lambda stage, share: bar(completed=round(100 * share), note=stage)
            )
    return Subject(
        name=f"{found.name}-{target}-{scheme}",
        role="exported",
        path=place,
        kind="bundle",
        extra={"parameters": found.parameters},
    )


def _measure(
    found: "Architecture", subjects: "Sequence[Subject]", device: str, how: "Settings | None", folder: Path
) -> Path:
    """Latency, memory and size on the device, shown as a table."""
    from masters_edge.benchmarks import Settings, bench, progress_bar
    from masters_edge.benchmarks.measure import Unfinished
    from masters_edge.preview import cost, screen

    results = folder / "results.json"
    questions = _QUESTIONS_OF_LARGE if found.parameters > cost.LARGE else QUESTIONS
    unfinished: Unfinished | None = None
    with progress_bar(console) as on_progress:
        try:
            all_found = bench(
                subjects,
                None,
                replace(how or Settings(), latency_questions=questions),
                device=device,
                out=results,
                on_progress=on_progress,
                on_reused=lambda subject, _: say(f"{subject.name}: measured before, reused"),
                on_note=say,
            )
        except Unfinished as some:
            all_found, unfinished = some.results, some
    names = {subject.name for subject in subjects}
    # results.json may hold them from other devices as well
    here = [m for m in all_found.measurements if m.name in names and (m.device.address or m.device.kind) == device]
    if here:
        device_of = here[-1].device
        shown = [m for m in here if m.device == device_of]
        console.print(screen.table(shown))
        where = f"{device_of.name} ({device_of.model or device_of.cpu})"
        say(
            f"On {where}, {here[-1].threads} thread{'s' * (here[-1].threads > 1)}. Medians. Weights are random: times, "
            "memory and sizes count, answers don't."
        )
        for why in dict.fromkeys(why for m in shown for why in m.unmeasured if why.startswith("peak memory")):
            say(f"– {why}.")
        for case in (case for m in here for case in m.cases if case.skipped):
            say(f"{case.name}: {case.skipped}")
        say(f"figures: {results}; picture: masters-edge report {results}")
    if unfinished is not None:
        raise unfinished
    return results
