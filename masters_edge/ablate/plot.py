"""ablation.png: the arms of each group as a forest plot, from the values of `ablation.json`.

A row for each arm: a point for each seed, the mean and its 95% interval; beside it the paired difference in words. Each
panel has a scale of its own, since differences within it are what counts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masters_edge.ablate.table import difference
from masters_edge.benchmarks.report import style
from masters_edge.common.files import whole_file

BETTER, WORSE, NEITHER = "#009e73", "#d55e00", "#0072b2"  # Okabe and Ito 2008
_COLOURS = {"better": BETTER, "worse": WORSE, "": NEITHER}
_DPI = 200
# Inches: the picture's width, one row, names, differences, what stands above a panel and below it.
_WIDTH, _ROW, _LEFT, _RIGHT, _ABOVE, _BELOW, _HEAD = 9.0, 0.235, 2.75, 2.75, 0.34, 0.26, 0.42


@dataclass(frozen=True)
class Panel:
    """Rows with one scale."""

    title: str
    arms: Sequence[Mapping[str, Any]]

    @property
    def height(self) -> float:
        return len(self.arms) * _ROW

    @property
    def range(self) -> tuple[float, float]:
        """What the axis spans: all trained arms' points, their intervals as far as they aren't much wider."""
        trained = [arm for arm in self.arms if arm["trained"] and arm["seeds"]]
        values = [value for arm in trained for value in arm["seeds"].values()]
        values = values or [value for arm in self.arms for value in arm["seeds"].values()]
        low, high = min(values), max(values)
        reach = max(1.0, 0.5 * (high - low))
        ends = [end for arm in trained if arm["low"] is not None for end in (arm["low"], arm["high"])]
        low, high = (
            max(low - reach, min([low - 0.3, *ends])),
            min(high + reach, max([high + 0.3, *ends])),
        )
        return max(0.0, low - 0.05 * (high - low)), min(100.5, high + 0.05 * (high - low))


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Write the picture, whole or not at all; where nothing is measured there is none.

    Raises:
        UserError: matplotlib isn't installed.
    """
    panels = list(_panels(found["groups"]))
    if not panels:
        return
    height = _HEAD + sum(_ABOVE + panel.height + _BELOW for panel in panels) + 0.1
    with style.plotting(8):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(_WIDTH, height), dpi=_DPI)
        figure.text(0.1 / _WIDTH, 1 - 0.24 / height, _head(found), fontsize=7.5, color=style.MUTED, va="center")
        top = height - _HEAD
        for panel in panels:
            top -= _ABOVE
            text = (0.1 / _WIDTH, (top + 0.13) / height)
            figure.text(*text, panel.title, weight="bold", fontsize=9.5, va="center")
            bottom = top - panel.height
            width = _WIDTH - _LEFT - _RIGHT
            box = (_LEFT / _WIDTH, bottom / height, width / _WIDTH, panel.height / height)
            _draw_panel(figure.add_axes(box), panel)
            top = bottom - _BELOW
        with whole_file(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})


def _panels(groups: Sequence[Mapping[str, Any]]) -> Iterator[Panel]:
    for group in groups:
        for condition in dict.fromkeys(arm["condition"] for arm in group["arms"]):
            arms = [arm for arm in group["arms"] if arm["condition"] == condition]
            if any(arm["seeds"] for arm in arms):
                yield Panel(f"{group['title']}: {condition}" if condition else group["title"], arms)


def _head(found: Mapping[str, Any]) -> str:
    seeds, test = len(found["seeds"]), found["test"]
    return (
        f"{found['recipe']}, accuracy in % on {test['asked']:,} questions ({test['source']}). Diamond: mean of {seeds} "
        f"{'seeds' if seeds > 1 else 'seed'} (circles), with its 95% interval.\nOn the right the mean, and the paired "
        "difference to the arm that it is compared with; green is better, orange worse, blue neither."
    )


def _draw_panel(axes: Any, panel: Panel) -> None:
    low, high = panel.range
    axes.set_xlim(low, high)
    axes.set_ylim(len(panel.arms) - 0.5, -0.5)
    axes.set_yticks([])
    axes.grid(True, axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="x", length=0, labelsize=7.5)
    for place, arm in enumerate(panel.arms):
        _beside(axes, place, arm["name"], 0.1 - _LEFT)
        if not arm["seeds"]:
            words = "refused" if arm["refused"] else "failed" if arm["failed"] else "still to come"
            axes.text(low, place, f" {words}", va="center", color=style.MUTED, fontsize=7.5, style="italic")
            continue
        first = arm["against"][0] if arm["against"] else None
        colour = _COLOURS[first["verdict"] if first else ""]
        width = _WIDTH - _LEFT - _RIGHT
        _beside(axes, place, f"{arm['mean']:.1f}", width + 0.42, align="right")
        if first:
            _beside(axes, place, difference(first), width + 0.55, "bold" if first["verdict"] else "normal")
        if not low <= arm["mean"] <= high:  # the untouched student, far from all others
            left = arm["mean"] < low
            edge, tip = (low, "◂") if left else (high, "▸")
            words = f"{tip} {arm['mean']:.1f}" if left else f"{arm['mean']:.1f} {tip}"
            axes.text(edge, place, words, va="center", ha="left" if left else "right", color=colour, fontsize=8)
            continue
        _arm(axes, place, arm, colour)


def _arm(axes: Any, place: int, arm: Mapping[str, Any], colour: str) -> None:
    if arm["low"] is not None:
        axes.plot([arm["low"], arm["high"]], [place, place], color=colour, lw=1.5, solid_capstyle="butt", zorder=2)
    if arm["trained"]:
        values = list(arm["seeds"].values())
        axes.plot(values, [place] * len(values), "o", ms=3, mfc=style.PAPER, mec=colour, mew=0.8, zorder=4)
    axes.plot([arm["mean"]], [place], "D", ms=5.5, color=colour, zorder=3)


def _beside(axes: Any, place: int, text: str, inches: float, weight: str = "normal", align: str = "left") -> None:
    """Text in the row at `place`, so many inches right of the axes' left end."""
    axes.text(
        inches / (_WIDTH - _LEFT - _RIGHT),
        place,
        text,
        transform=axes.get_yaxis_transform(),
        va="center",
        ha=align,
        fontsize=8,
        weight=weight,
        color=style.INK,
    )
