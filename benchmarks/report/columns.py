"""The columns of the report's table, for page, Markdown and tooltips: a heading, a text, and a number to sort by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from masters_edge.benchmarks.report import axes, style
from masters_edge.benchmarks.report.entry import Entry
from masters_edge.benchmarks.results import STAGES, Measurement, Stage


@dataclass(frozen=True)
class Column:
    """`value` sorts; None where there is nothing, which goes last."""

    heading: str
    text: Callable[[Measurement], str]
    value: Callable[[Measurement], float | str | None]


def _stage(name: str) -> Column:
    def text(m: Measurement) -> str:
        found: Stage | None = getattr(m.latency, name)
        if found is None:
            return "–"
        return style.number(found.median) + (f" (p90 {style.number(found.p90)})" if found.n > 1 else "")

    return Column(style.STAGE_TITLES[name], text, axes.stage(name))


def _optional(
    read: Callable[[Measurement], float | None], shown: Callable[[float], str]
) -> Callable[[Measurement], str]:
    def text(m: Measurement) -> str:
        value = read(m)
        return "–" if value is None else shown(value)

    return text


def _agreement(m: Measurement) -> float | None:
    return m.agreement.per_cent if m.agreement else None


def _same(m: Measurement) -> float | None:
    found = m.python_runtime
    return 100 * found.equal / found.asked if found else None


def _page_memory(m: Measurement) -> float | None:
    return m.page_memory_mib


def _left(m: Measurement) -> float | None:
    return 100 * m.sustained.speed_left if m.sustained else None


def _one(shown: str) -> Callable[[float], str]:
    return lambda value: shown.format(value)


_ALL = (
    Column("runtime", lambda m: style.runtime_title(m.runtime), lambda m: m.runtime),
    Column("scheme", style.scheme_of, style.scheme_of),
    Column("accuracy, %", style.per_cent, axes.ACCURACY.read),
    Column("95% interval", style.interval, axes.ACCURACY.read),
    Column("right", style.right, lambda m: m.accuracy.right if m.accuracy else None),
    Column("equal to PyTorch, %", _optional(_agreement, _one("{:.1f}")), _agreement),
    Column("equal to the Python runtime, %", _optional(_same, _one("{:.1f}")), _same),
    *(_stage(name) for name in (*STAGES, "cold_start_ms")),
    Column("file size", lambda m: style.size(m.size_bytes), lambda m: m.size_bytes),
    Column("peak memory, MiB", _optional(axes.MEMORY.read, style.number), axes.MEMORY.read),
    Column("page memory, MiB", _optional(_page_memory, style.number), _page_memory),
    Column("energy of an answer, J", _optional(axes.ENERGY.read, style.number), axes.ENERGY.read),
    Column("speed left after the loop, %", _optional(_left, _one("{:.0f}")), _left),
    Column("parameters", lambda m: "–" if m.parameters is None else style.count(m.parameters), lambda m: m.parameters),
    Column("threads", lambda m: str(m.threads), lambda m: m.threads),
    Column("answers timed", lambda m: f"{m.latency_questions:,}", lambda m: m.latency_questions),
    Column(
        "training steps",
        lambda m: "–" if m.training.steps is None else f"{m.training.steps:,}",
        lambda m: m.training.steps,
    ),
    Column("training time", lambda m: style.seconds(m.training.seconds), lambda m: m.training.seconds),
)


def columns(entries: Sequence[Entry]) -> list[Column]:
    """Those that have a figure for at least one entry."""
    return [column for column in _ALL if any(column.value(e.m) is not None for e in entries)]
