"""ablation.png: the arms of each group as a forest plot, from the values of `ablation.json`.

A row for each arm: a point for each seed, the mean and its 95% interval; beside it the paired difference in words.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from masters_edge.ablate.table import difference
from masters_edge.benchmarks.report import style
from masters_edge.files import whole_file

BETTER, WORSE, NEITHER = "#009e73", "#d55e00", "#0072b2"  # Okabe and Ito 2008
_COLOURS = {"better": BETTER, "worse": WORSE, "": NEITHER}
_WIDTH, _ROW, _DPI = 9.0, 0.235, 200  # inches; dots per inch
_LEFT, _RIGHT = 2.9, 2.35  # inches for names and differences


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Write the picture, whole or not at all; groups without a measured arm are left out.

    Raises:
        UserError: matplotlib isn't installed.
    """
    groups = [group for group in found["groups"] if any(arm["seeds"] for arm in group["arms"])]
    if not groups:
        return
    heights = [len(list(_rows(group))) for group in groups]
    height = sum(heights) * _ROW + len(groups) * 0.62 + 0.75
    with style.plotting(8) as matplotlib:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(_WIDTH, height), dpi=_DPI)
        top = height - 0.42
        low, high = _range(groups)
        figure.text(
            0.1 / _WIDTH,
            1 - 0.16 / height,
            _title(found),
            fontsize=8,
            color=style.MUTED,
            va="center",
        )
        for group, count in zip(groups, heights):
            top -= 0.34
            bottom = top - count * _ROW
            box = (_LEFT / _WIDTH, bottom / height, (_WIDTH - _LEFT - _RIGHT) / _WIDTH, count * _ROW / height)
            axes = figure.add_axes(box)
            _panel(axes, group, low, high)
            figure.text(0.1 / _WIDTH, (top + 0.13) / height, group["title"], weight="bold", fontsize=9.5, va="center")
            top = bottom - 0.28
        with whole_file(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})
        assert matplotlib


def _title(found: Mapping[str, Any]) -> str:
    seeds, test = len(found["seeds"]), found["test"]
    return (
        f"{found['recipe']}: accuracy in % on {test['asked']:,} questions ({test['source']}); small points are "
        f"seeds ({seeds}), bars 95% intervals of the mean;\ncolour says whether the paired difference on the right "
        "excludes 0: better (green), worse (orange), neither (blue)"
    )


def _rows(group: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Label and arm of each row; a condition is a row of its own above its arms."""
    condition = None
    for arm in group["arms"]:
        if arm["condition"] != condition:
            condition = arm["condition"]
            yield condition, None
        yield arm["name"], arm


def _range(groups: list[Mapping[str, Any]]) -> tuple[float, float]:
    """What the axes span: all seeds' points with a margin; intervals that reach further are cut."""
    values = [value for group in groups for arm in group["arms"] for value in arm["seeds"].values()]
    margin = max(1.0, 0.05 * (max(values) - min(values)))
    return max(0.0, min(values) - margin), min(100.0, max(values) + margin)


def _panel(axes: Any, group: Mapping[str, Any], low: float, high: float) -> None:
    rows = list(_rows(group))
    conditions = any(arm is None for _, arm in rows)
    axes.set_xlim(low, high)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks([])
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="x", length=0, labelsize=7.5)
    for place, (label, arm) in enumerate(rows):
        if arm is None:
            axes.axhspan(place - 0.5, place + 0.5, color="#eef1f4", lw=0, zorder=0)
            _beside(axes, place, label, left=True, weight="bold")
            continue
        _beside(axes, place, label, left=True, indent=0.12 if conditions else 0.0)
        if not arm["seeds"]:
            words = "refused" if arm["refused"] else "failed" if arm["failed"] else "still to come"
            axes.text(low, place, f" {words}", va="center", color=style.MUTED, fontsize=7.5, style="italic")
            continue
        first = arm["against"][0] if arm["against"] else None
        _arm(axes, place, arm, _COLOURS[first["verdict"] if first else ""])
        if first:
            weight = "bold" if first["verdict"] else "normal"
            _beside(axes, place, f"{arm['mean']:.1f}   {difference(first)}", left=False, weight=weight)
        else:
            _beside(axes, place, f"{arm['mean']:.1f}", left=False)


def _arm(axes: Any, place: int, arm: Mapping[str, Any], colour: str) -> None:
    if arm["low"] is not None:
        axes.plot([arm["low"], arm["high"]], [place, place], color=colour, lw=1.6, solid_capstyle="butt", zorder=2)
    if arm["trained"]:
        values = list(arm["seeds"].values())
        axes.plot(values, [place] * len(values), "o", ms=2.6, mfc=style.PAPER, mec=colour, mew=0.7, zorder=3)
    marker = "D" if arm["trained"] else "|"
    axes.plot([arm["mean"]], [place], marker, ms=5.5 if arm["trained"] else 9, color=colour, mew=1.2, zorder=4)


def _beside(axes: Any, place: int, text: str, left: bool, indent: float = 0.0, weight: str = "normal") -> None:
    """Text in the margin, in the row at `place`."""
    width = _WIDTH - _LEFT - _RIGHT
    x = (0.1 + indent - _LEFT) / width if left else 1 + 0.08 / width
    axes.text(
        x,
        place,
        text,
        transform=axes.get_yaxis_transform(),
        va="center",
        ha="left",
        fontsize=8 if left else 7.5,
        weight=weight,
        color=style.INK,
    )
