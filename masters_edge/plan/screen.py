"""The plan on a terminal of 80 columns."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from masters_edge.common.display import ratio_text
from masters_edge.plan import Plan
from masters_edge.plan.cures import gib
from masters_edge.plan.memory import Usage
from masters_edge.plan.shapes import PARTS


def parts(plan: Plan) -> Iterator[Any]:
    """Tables and lines, in order."""
    yield from _machine(plan)
    yield from _parameters(plan)
    yield from _memory(plan)
    for index in range(len(plan.phases)):
        yield from _tokens(plan, index)
    yield from _disk(plan)
    yield from _time(plan)
    yield Text("Assumed", style="bold")
    for sentence in plan.assumed:
        yield Text(f"  {sentence}")
    for sentence in plan.warnings:
        yield Text(f"Doesn't fit: {sentence}.", style="bold red")


def _machine(plan: Plan) -> Iterator[Text]:
    machine = plan.machine
    what = f"{machine.processes} x GPU of {gib(machine.gpu_bytes)}" if machine.gpu else "this machine's CPU"
    if not machine.gpu:
        what += f", {gib(machine.gpu_bytes)} (--gpus N for GPUs)"
    cut = f", cut up by {machine.sharding}" if machine.sharding != "none" else ""
    yield Text(f"Plan of {plan.recipe_path} on {what}{cut}", style="bold")
    if machine.processes > 1 or machine.gpu:
        yield Text("Computed, not measured here; held against measurements on one CPU process only.")


def _table(title: str, *columns: str, first: str = "") -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1), pad_edge=False)
    table.add_column(first, no_wrap=False)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def count(number: float) -> str:
    """A count in four characters or so: 8.77 B, 312 M, 4,096."""
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.3g} k" if number >= 1e4 else f"{number:,.0f}"


def _parameters(plan: Plan) -> Iterator[Any]:
    table = _table("\nParameters", *PARTS, "total", first="model")
    for role, shape in [("student", plan.student), *(("teacher", t) for t in plan.teachers)]:
        table.add_row(f"{role} {short(shape.name)}", *(count(shape.parameters[p]) for p in PARTS), count(shape.total))
    yield table
    yield Text(f"  {count(plan.trained_parameters)} learn; tied weights counted once, as embeddings")
    for origin in dict.fromkeys(s.origin for s in (plan.student, *plan.teachers)):
        names = ", ".join(short(s.name) for s in (plan.student, *plan.teachers) if s.origin == origin)
        yield Text(f"  {names}: {origin}")


def short(name: str) -> str:
    """The last part of a hub id or path."""
    return name.rstrip("/").rpartition("/")[2]


def _memory(plan: Plan) -> Iterator[Any]:
    columns: list[tuple[str, Usage]] = [("responses", plan.responses)] if plan.responses else []
    columns += [(f"phase {i}", p.training) for i, p in enumerate(plan.phases, 1)]
    table = _table("\nMemory of one process at its fullest", *(name for name, _ in columns), first="part")
    sizes: dict[str, int] = {}
    for _, usage in columns:
        for part, size in usage.parts.items():
            sizes[part] = max(size, sizes.get(part, 0))
    for part in sorted(sizes, key=lambda part: -sizes[part]):
        table.add_row(part, *(gib(u.parts[part]) if part in u.parts else "" for _, u in columns))
    table.add_section()
    table.add_row("together", *(gib(u.total) for _, u in columns), style="bold")
    of = plan.machine.gpu_bytes
    table.add_row(f"of {gib(of)}", *(f"{100 * u.total / of:.0f}%" for _, u in columns))
    yield table
    for name, usage in columns:
        yield Text(f"  {name}: fullest during {usage.moment}")
    for number, phase in enumerate(plan.phases, 1):
        yield Text(
            f"  phase {number}: {phase.questions_per_device} question(s) in a pass, {phase.passes} pass(es) a step; "
            f"{phase.training.logits_alive or 0:.1f} x a chunk's logits in float32 at once"
        )


def _tokens(plan: Plan, index: int) -> Iterator[Any]:
    planned = plan.phases[index]
    counted = planned.tokens
    title = f"\nTokens, phase {index + 1}: {counted.objective}, {counted.steps:,} steps"
    table = _table(title, "visits", "responses", "generated", "scored", "trained", first="stage")
    for stage in counted.stages:
        row = (
            f"{short(plan.teachers[stage.teacher].name)} mask {ratio_text(stage.ratio)}"
            if counted.objective != "labels"
            else "labels"
        )
        table.add_row(
            row,
            count(stage.visits),
            count(stage.student_responses + stage.teacher_responses),
            count(stage.generated_student + stage.generated_teacher),
            count(stage.scored_student + stage.scored_teacher),
            count(stage.trained_student),
        )
    table.add_row(
        "together",
        *(count(counted.sum(name)) for name in ("visits",)),
        count(counted.sum("student_responses") + counted.sum("teacher_responses")),
        count(counted.sum("generated_student") + counted.sum("generated_teacher")),
        count(counted.sum("scored_student") + counted.sum("scored_teacher")),
        count(counted.sum("trained_student")),
        style="bold",
    )
    table.add_row("FLOPs", "", "", *(count(planned.flops[name]) for name in ("generate", "score", "train")))
    yield table
    beside = [
        f"{name} {count(counted.sum(key))}"
        for name, key in (("teacher", "trained_teacher"), ("reference", "trained_reference"))
        if counted.sum(key)
    ]
    if beside:
        yield Text(f"  beside the student in training: {', '.join(beside)} tokens")


def _disk(plan: Plan) -> Iterator[Any]:
    table = _table("\nDisk", "responses", "checkpoints", "student", "together", first="phase")
    for number, phase in enumerate(plan.phases, 1):
        disk = phase.disk
        row = (disk.responses, disk.checkpoints, disk.student, disk.kept)
        table.add_row(f"{number} {phase.tokens.objective}", *(gib(size) for size in row))
    yield table
    yield Text(
        f"  {gib(plan.disk_bytes)} at most, with the checkpoint being written; {gib(plan.free_disk_bytes)} free at "
        f"{plan.run_dir}"
    )


def _time(plan: Plan) -> Iterator[Any]:
    if plan.rates is None:
        yield Text("\nTime: none without a measured rate (--measure here, or --rate FILE)", style="bold")
        return
    names = ("generate_student", "generate_teacher", "score", "train", "evaluate")
    table = _table("\nTime", "student", "teacher", "scoring", "training", "held-out", "together", first="phase")
    for number, phase in enumerate(plan.phases, 1):
        row = [hours(phase.seconds[n]) if n in phase.seconds else "?" for n in names]
        table.add_row(f"{number} {phase.tokens.objective}", *row, hours(sum(phase.seconds.values())))
    spread = f", {plan.machine.processes} processes sharing the work evenly" if plan.machine.processes > 1 else ""
    day = f" on {plan.rates.measured_on}" if plan.rates.measured_on else ""
    yield table
    start = f"{hours(plan.rates.start_s)} to start" if plan.rates.start_s else "the start not counted"
    yield Text(
        f"  {hours(plan.seconds)} in all, {start}; from tokens per second measured on {plan.rates.device}{day}{spread}"
    )


def hours(seconds: float) -> str:
    """A duration in its largest unit."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
