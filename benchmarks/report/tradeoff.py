"""Accuracy against latency: one bubble per measured subject, its area the file size, and the Pareto front.

In: measurements of one suite. Out: a drawn matplotlib axes. Up and left is better.
"""

import math
from collections.abc import Sequence
from typing import Any

from masters_edge.benchmarks.report import labels, style
from masters_edge.benchmarks.results import Measurement

LARGEST_AREA, SMALLEST_AREA = 2400.0, 30.0  # square points


def latency_ms(measurement: Measurement) -> float | None:
    """Median of the whole answer, or None where it wasn't measured (or is 0, which a log axis can't show)."""
    stage = measurement.latency.total_ms
    return stage.median if stage is not None and stage.median > 0 else None


def pareto(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Those that no other beats: none is both as fast and as accurate, and better in one. Fastest first."""
    timed = [m for m in measurements if latency_ms(m) is not None]
    front: list[Measurement] = []
    for candidate in sorted(timed, key=lambda m: (latency_ms(m), -m.accuracy.per_cent)):
        if not front or candidate.accuracy.per_cent > front[-1].accuracy.per_cent:
            front.append(candidate)
    return front


def draw(axes: Any, measurements: Sequence[Measurement], font_size: float, narrow: bool = False) -> None:
    """Draw onto `axes`, whose place in the figure must be final. Says so where nothing can be drawn."""
    timed = [m for m in measurements if latency_ms(m) is not None]
    axes.set_xlabel("latency of a whole answer, ms (median, log scale)" if not narrow else "whole answer, ms (log)")
    axes.set_ylabel("accuracy, %")
    if not timed:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "No latency was measured", ha="center", va="center", transform=axes.transAxes)
        return
    shrink = 0.4 if narrow else 1.0
    largest = max(m.size_bytes for m in timed) or 1
    areas = {m.name: max(SMALLEST_AREA, shrink * LARGEST_AREA * m.size_bytes / largest) for m in timed}
    _limits(axes, timed)
    front = pareto(timed)
    steps = _steps(front)
    if len(front) > 1:
        axes.plot(*zip(*steps), color=style.MUTED, linewidth=1.5, linestyle=(0, (4, 3)), zorder=1)
    for m in sorted(timed, key=lambda m: -m.size_bytes):
        x, y = latency_ms(m), m.accuracy.per_cent
        colour = style.ROLE_COLOURS[m.role]
        axes.plot([x, x], [m.accuracy.low, m.accuracy.high], color=style.INK, linewidth=1.6, zorder=4)
        mark = style.MARKS.get(m.kind, style.OTHER_MARK)
        axes.scatter(
            [x],
            [y],
            s=areas[m.name],
            color=colour,
            alpha=0.75,
            edgecolors=style.INK,
            linewidths=0.8,
            marker=mark,
            zorder=3,
        )
    _legend(axes, timed, len(front) > 1, font_size, narrow)
    several = len({m.device.name for m in timed}) > 1
    marks = [
        labels.Mark(
            x=latency_ms(m) or 1.0,
            y=m.accuracy.per_cent,
            radius=math.sqrt(areas[m.name]) / 2,
            text=f"{m.name}\n{style.size(m.size_bytes)}" + (f", {m.device.name}" if several else ""),
        )
        for m in timed
    ]
    bars = [[(latency_ms(m) or 1.0, m.accuracy.low), (latency_ms(m) or 1.0, m.accuracy.high)] for m in timed]
    labels.place(axes, marks, font_size * (0.85 if narrow else 0.9), [steps, *bars] if len(front) > 1 else bars)


def _limits(axes: Any, timed: Sequence[Measurement]) -> None:
    values = [latency_ms(m) or 1.0 for m in timed]
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.28 * (high - low), 0.2)
    axes.set_xscale("log")
    axes.set_xlim(10 ** (low - room), 10 ** (high + room))
    bottom, top = min(m.accuracy.low for m in timed), max(m.accuracy.high for m in timed)
    pad = max(0.14 * (top - bottom), 1.0)
    axes.set_ylim(bottom - pad, top + pad)
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 100 and bottom - pad <= tick <= top + pad])
    axes.set_xticks(_ticks(10 ** (low - room), 10 ** (high + room)))
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... inside the range; only powers of ten where that would be more than seven."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]
    return fine if len(fine) <= 7 else [10.0**d for d in decades if low <= 10.0**d <= high]


def _steps(front: Sequence[Measurement]) -> list[tuple[float, float]]:
    """The front as a staircase: for each latency, the best accuracy that can be had within it."""
    points: list[tuple[float, float]] = []
    for m in front:
        if points:
            points.append((latency_ms(m) or 1.0, points[-1][1]))
        points.append((latency_ms(m) or 1.0, m.accuracy.per_cent))
    return points


def _legend(axes: Any, timed: Sequence[Measurement], front: bool, font_size: float, narrow: bool) -> None:
    from matplotlib.lines import Line2D

    roles = [role for role in style.ROLE_COLOURS if any(m.role == role for m in timed)]
    handles = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=next(style.MARKS.get(m.kind, style.OTHER_MARK) for m in timed if m.role == role),
            color=style.ROLE_COLOURS[role],
            markersize=font_size * 0.6,
            label=role,
        )
        for role in roles
    ]
    if front:
        handles.append(Line2D([], [], color=style.MUTED, linewidth=1.5, linestyle=(0, (4, 3)), label="Pareto front"))
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=3 if narrow else len(handles),
        frameon=False,
        fontsize=font_size * 0.85,
        handletextpad=0.3,
        handlelength=1.6,
        columnspacing=1.0,
        borderaxespad=0.1,
        borderpad=0.3,
    )
