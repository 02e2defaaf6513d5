"""Put a label beside each mark so that labels meet neither one another, nor marks, nor the axes' border.

Greedy: each label takes, of places around its mark, the one that overlaps least. In: axes, marks in data coordinates
with a radius in points, texts. Out: nothing; the axes carry the labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from masters_edge.benchmarks.report.style import MUTED, PAPER

# (x, y) direction in which a label leaves its mark, best first
_DIRECTIONS = ((1, 0), (0, 1), (0, -1), (-1, 0), (0.75, 0.75), (0.75, -0.75), (-0.75, 0.75), (-0.75, -0.75))
_GAPS = (3.0, 14.0, 30.0, 48.0, 70.0, 95.0, 125.0)  # points between mark and label


@dataclass(frozen=True)
class Mark:
    """`x`, `y` in data coordinates, `radius` in points."""

    x: float
    y: float
    radius: float
    text: str


Box = tuple[float, float, float, float]  # left, bottom, right, top


def place(
    axes: Any, marks: Sequence[Mark], font_size: float, lines: Sequence[Sequence[tuple[float, float]]] = ()
) -> None:
    """Annotate `axes`; its limits and the figure's layout must be final. `lines`, in data coordinates, are kept free
    of labels where that is possible."""
    figure = axes.figure
    scale = figure.dpi / 72  # pixels per point
    renderer = figure.canvas.get_renderer()
    border = axes.get_window_extent(renderer)
    centres = [tuple(axes.transData.transform((mark.x, mark.y))) for mark in marks]
    solid = [_around(centre, mark.radius * scale) for centre, mark in zip(centres, marks)]
    drawn = [_samples([tuple(axes.transData.transform(point)) for point in line]) for line in lines]
    taken: list[Box] = []
    # Crowded marks choose first.
    order = sorted(range(len(marks)), key=lambda i: sum(math.dist(centres[i], other) for other in centres))
    for index in order:
        mark, centre = marks[index], centres[index]
        note = axes.annotate(
            mark.text, (mark.x, mark.y), xytext=(0, 0), textcoords="offset points", fontsize=font_size, parse_math=False
        )
        extent = note.get_window_extent(renderer)
        best: tuple[float, float, Box, float] | None = None
        cost_of_best = math.inf
        for rank, (gap, (dx, dy)) in enumerate((gap, direction) for gap in _GAPS for direction in _DIRECTIONS):
            reach = (mark.radius + gap) * scale
            left = centre[0] + dx * reach - (0 if dx > 0 else extent.width if dx < 0 else extent.width / 2)
            bottom = centre[1] + dy * reach - (0 if dy > 0 else extent.height if dy < 0 else extent.height / 2)
            box = (left, bottom, left + extent.width, bottom + extent.height)
            cost = rank + 4 * _outside(box, (border.x0, border.y0, border.x1, border.y1))
            cost += sum(2 * _overlap(_wider(box, 4 * scale), other) for other in taken)
            cost += sum(_overlap(box, other) for other in solid)
            cost += sum(40 * sum(_inside(point, box) for point in points) / scale for points in drawn)
            if cost < cost_of_best:
                best, cost_of_best = ((left - centre[0]) / scale, (bottom - centre[1]) / scale, box, gap), cost
        assert best is not None
        x, y, box, gap = best
        note.remove()
        taken.append(box)
        arrow = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.8, "shrinkA": 2, "shrinkB": mark.radius}
        axes.annotate(
            mark.text,
            (mark.x, mark.y),
            xytext=(x, y),
            textcoords="offset points",
            fontsize=font_size,
            parse_math=False,
            ha="left",
            va="bottom",
            linespacing=1.15,
            arrowprops=arrow if gap > _GAPS[1] else None,
            bbox={"facecolor": PAPER, "alpha": 0.6, "edgecolor": "none", "pad": 0.5},
            zorder=5,
        )


def _around(centre: tuple[float, float], radius: float) -> Box:
    return centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius


def _wider(box: Box, margin: float) -> Box:
    return box[0] - margin, box[1], box[2] + margin, box[3]


def _overlap(a: Box, b: Box) -> float:
    """Shared area in square pixels."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _outside(box: Box, border: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, border)


def _samples(line: Sequence[tuple[float, float]], step: float = 6.0) -> list[tuple[float, float]]:
    """Points along a polyline, about `step` pixels apart."""
    points = []
    for (x0, y0), (x1, y1) in zip(line, line[1:]):
        pieces = max(1, round(math.dist((x0, y0), (x1, y1)) / step))
        points += [(x0 + (x1 - x0) * i / pieces, y0 + (y1 - y0) * i / pieces) for i in range(pieces + 1)]
    return points


def _inside(point: tuple[float, float], box: Box) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]
