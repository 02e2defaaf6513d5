"""Put a label beside each mark so that labels meet neither one another, nor marks, nor a plot's border.

Greedy: each label takes, of places around its mark, the one that overlaps least. In and out: pixels, y downwards.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# (x, y) direction in which a label leaves its mark, best first
_DIRECTIONS = ((1, 0), (0, -1), (0, 1), (-1, 0), (0.75, -0.75), (0.75, 0.75), (-0.75, -0.75), (-0.75, 0.75))
_GAPS = (0.25, 1.0, 2.0, 3.2, 4.6, 6.2, 8.0)  # heights of a label between mark and label
_LINED = 1.5  # heights from which on a line leads to the mark

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Mark:
    """A mark's place and radius, and the size of the label that belongs to it."""

    x: float
    y: float
    radius: float
    width: float
    height: float


@dataclass(frozen=True)
class Placed:
    """A label's box, and whether it stands so far from its mark that a line should lead there."""

    box: Box
    lined: bool


def place(marks: Sequence[Mark], border: Box, lines: Sequence[Sequence[tuple[float, float]]] = ()) -> list[Placed]:
    """A place for each label, in the order of the marks. `lines` are kept free of labels where that is possible."""
    solid = [(m.x - m.radius, m.y - m.radius, m.x + m.radius, m.y + m.radius) for m in marks]
    drawn = np.array([point for line in lines for point in _samples(line)]).reshape(-1, 2)
    placed: dict[int, Placed] = {}
    # Whose label has the fewest places at the border chooses first, then the large labels, then those in the crowd.
    order = sorted(
        range(len(marks)),
        key=lambda i: (
            sum(overlap(_at(marks[i], dx, dy, _GAPS[0]), border) > 0.99 * _area(marks[i]) for dx, dy in _DIRECTIONS),
            -round(marks[i].width / (4 * marks[i].height)),
            sum(math.dist((marks[i].x, marks[i].y), (m.x, m.y)) for m in marks),
        ),
    )
    for index in order:
        mark = marks[index]
        taken = [other.box for other in placed.values()]
        best, cost_of_best = None, math.inf
        for rank, (gap, (dx, dy)) in enumerate((gap, way) for gap in _GAPS for way in _DIRECTIONS):
            box = _at(mark, dx, dy, gap)
            area = _area(mark)  # what is hidden counts in areas of the label, so that pictures of all sizes are alike
            cost = rank * 0.02 + gap * 0.12 + 6 * (area - overlap(box, border)) / area
            cost += sum(12 * overlap(_wider(box, 0.25 * mark.height), other) for other in taken) / area
            cost += sum(2 * overlap(box, other) for other in solid) / area
            cost += 0.2 * _inside(drawn, box)
            own = _apart(box, mark)  # nearer to another mark it would seem to be that one's
            cost += 0.8 * any(_apart(box, other) < own for other in marks if other is not mark)
            if cost < cost_of_best:
                best, cost_of_best = Placed(box, gap >= _LINED), cost
        assert best is not None
        placed[index] = best
    return [placed[index] for index in range(len(marks))]


def _at(mark: Mark, dx: float, dy: float, gap: float) -> Box:
    reach = mark.radius + gap * mark.height
    left = mark.x + dx * reach - (0 if dx > 0 else mark.width if dx < 0 else mark.width / 2)
    top = mark.y + dy * reach - (0 if dy > 0 else mark.height if dy < 0 else mark.height / 2)
    return left, top, left + mark.width, top + mark.height


def _apart(box: Box, mark: Mark) -> float:
    """From a box to the rim of a mark."""
    dx = max(box[0] - mark.x, 0.0, mark.x - box[2])
    dy = max(box[1] - mark.y, 0.0, mark.y - box[3])
    return max(0.0, math.hypot(dx, dy) - mark.radius)


def _area(mark: Mark) -> float:
    return mark.width * mark.height


def _wider(box: Box, margin: float) -> Box:
    return box[0] - margin, box[1], box[2] + margin, box[3]


def overlap(a: Box, b: Box) -> float:
    """Shared area in square pixels."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _samples(line: Sequence[tuple[float, float]], step: float = 6.0) -> list[tuple[float, float]]:
    """Points along a polyline, about `step` pixels apart."""
    points = []
    for (x0, y0), (x1, y1) in zip(line, line[1:]):
        pieces = max(1, round(math.dist((x0, y0), (x1, y1)) / step))
        points += [(x0 + (x1 - x0) * i / pieces, y0 + (y1 - y0) * i / pieces) for i in range(pieces + 1)]
    return points


def _inside(points: np.ndarray, box: Box) -> int:
    """How many of the points [n, 2] lie in the box."""
    x, y = points[:, 0], points[:, 1]
    return int(np.count_nonzero((x >= box[0]) & (x <= box[2]) & (y >= box[1]) & (y <= box[3])))
