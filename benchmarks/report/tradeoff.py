"""Latency against accuracy: one numbered mark per measurement, its area the file size, and the Pareto front.

In: entries of one device. Out: a part of a `Scene`. Shape: runtime; colour: scheme; hollow: PyTorch. Up and left is
better. Where accuracy wasn't measured (previews), the file size stands on the vertical axis instead.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from masters_edge.benchmarks.report import axes, labels, scales, scene, style
from masters_edge.benchmarks.report.axes import Quantity
from masters_edge.benchmarks.report.entry import Entry
from masters_edge.benchmarks.report.scales import Scale
from masters_edge.benchmarks.report.scene import Point, Scene, Text
from masters_edge.benchmarks.results import Measurement

_SMALLEST = 0.36  # of the font size: a mark's least radius
# References more than so many spans away from the exported files stand at the plot's edge, with their figures.
_FAR = 1.2
_FAR_TIMES = 2.0


MOST_LABELS = 40  # in a panel; the front's come first


@dataclass(frozen=True)
class Look:
    """`font` in pixels; `largest` the largest mark's radius; `named` whether the front's labels say names."""

    font: float
    largest: float
    named: bool = True


@dataclass(frozen=True)
class View:
    """What all panels of one picture share: quantities and scales, colours and shapes, the largest file."""

    x: Quantity
    y: Quantity
    across: Scale
    up: Scale
    colours: dict[str, str]
    shapes: dict[str, str]
    largest: int


def vertical(entries: Sequence[Entry]) -> Quantity:
    return axes.ACCURACY if all(entry.m.accuracy for entry in entries) else axes.SIZE


def drawable(entries: Sequence[Entry], x: Quantity) -> list[Entry]:
    """Those whose `x` a log axis can show."""
    y = vertical(entries)
    return [e for e in entries if axes.positive(x, e.m) is not None and y.read(e.m) is not None]


def view(entries: Sequence[Entry], x: Quantity, everyone: Sequence[Entry]) -> View | None:
    """Scales that hold `entries`; colours and shapes as for `everyone`. None where nothing can be drawn."""
    y, drawn = vertical(everyone), drawable(entries, x)
    if not drawn:
        return None
    across = scales.around(
        _near([(axes.positive(x, e.m) or 1.0, style.is_reference(e.m)) for e in drawn]), True, 0.14, 0.3
    )
    measured = [e.m for e in everyone]
    up = _accuracies(measured) if y is axes.ACCURACY else scales.around([_size(m) for m in measured], True, 0.14, 0.3)
    colours, shapes = style.scheme_colours(measured), style.runtime_shapes(measured)
    whole = View(x, y, across, up, colours, shapes, 1)
    # A reference at the edge has no area, so its size must not make the others small.
    inside = [e.m.size_bytes for e in drawn if _outside(e.m, whole) == (0, 0)]
    return replace(whole, largest=max(inside, default=1))


def _near(values: Sequence[tuple[float, bool]]) -> list[float]:
    """Of (value, is a reference) pairs the values that a log axis should hold: all but references far away."""
    kept = [value for value, reference in values if not reference] or [value for value, _ in values]
    low, high = min(kept) / _FAR_TIMES, max(kept) * _FAR_TIMES
    return kept + [value for value, _ in values if low <= value <= high]


def _size(m: Measurement) -> float:
    return max(m.size_bytes, 1) / 1e6


def _accuracies(measured: Sequence[Measurement]) -> Scale:
    """Around the exported files and what they were made of; farther references must not flatten them to a line."""
    kept = [m for m in measured if m.role in ("exported", "student after")] or list(measured)
    low, high = (pick(_ends(m, index) for m in kept) for pick, index in ((min, 0), (max, 1)))
    span = max(high - low, 3.0)
    for m in measured:
        if low - _FAR * span <= _ends(m, 0) and _ends(m, 1) <= high + _FAR * span:
            kept.append(m)
    ends = [_ends(m, index) for m in kept for index in (0, 1)]
    scale = scales.around(ends, False, 0.12, 3.0)
    return Scale(max(scale.low, -4.0), min(scale.high, 104.0))


def _ends(m: Measurement, index: int) -> float:
    assert m.accuracy is not None
    return (m.accuracy.low, m.accuracy.high)[index]


def pareto(entries: Sequence[Entry], x: Quantity = axes.ANSWER) -> list[Entry]:
    """Those that no other beats: none is both as low in `x` and as accurate, and better in one. Lowest `x` first."""
    y = vertical(entries)
    sign = -1 if y.higher_is_better else 1
    drawn = [(axes.positive(x, e.m) or 0.0, sign * (y.read(e.m) or 0.0), i) for i, e in enumerate(entries)]
    drawn = [point for point in drawn if point[0] > 0]
    front: list[Entry] = []
    best = math.inf
    for _, value, index in sorted(drawn):
        if value < best:
            front.append(entries[index])
            best = value
    return front


def draw(into: Scene, box: labels.Box, entries: Sequence[Entry], seen: View, look: Look) -> None:
    """Draw one panel; `box` (left, top, right, bottom) is the plotting area, ticks and titles stand outside it."""
    left, top, right, bottom = box
    drawn = drawable(entries, seen.x)
    _axes(into, box, seen, look)

    def place(m: Measurement) -> Point:
        across = seen.across.share(axes.positive(seen.x, m) or 1.0)
        up = seen.up.share(seen.y.read(m) or seen.up.low)
        return left + _inside(across) * (right - left), bottom - _inside(up) * (bottom - top)

    front = pareto(drawn, seen.x)
    steps = _steps([place(e.m) for e in front], box)
    if len(front) > 1:
        into.add(
            scene.Path(
                steps, stroke="muted", width=look.font / 9, dash=(look.font * 0.5, look.font * 0.35), kind="front"
            )
        )
    radii = {e.name: _radius(e.m, seen, look) for e in drawn}
    texts = [_label(e, e in front, seen, look) for e in drawn]
    size = look.font * 0.86
    marks = [
        labels.Mark(
            *place(e.m), radii[e.name], max(scene.text_width(line, size) for line in text), size * 1.12 * len(text)
        )
        for e, text in zip(drawn, texts)
    ]
    bars = [_bar(e.m, place(e.m), seen, box) for e in drawn]
    # Beyond so many, labels would hide the marks, and each is weighed against all others.
    first = sorted(range(len(drawn)), key=lambda i: (drawn[i] not in front, i))[:MOST_LABELS]
    lines = [*[bars[i] for i in first if bars[i]], *([steps] if len(front) > 1 else [])]
    spots = dict(zip(first, labels.place([marks[i] for i in first], box, lines)))
    for entry, bar in zip(drawn, bars):
        if bar:
            with into.group(class_="interval", data_id=entry_id(entry)):
                into.line(*bar, stroke="muted", width=look.font / 13, opacity=0.7)
    order = sorted(range(len(drawn)), key=lambda i: -radii[drawn[i].name])
    for i in order:
        entry, at = drawn[i], place(drawn[i].m)
        with into.group(
            class_="mark", tabindex="0", role="img", aria_label=said(entry, seen.x), data_number=str(entry.number),
            data_x=f"{at[0]:.1f}", data_y=f"{at[1]:.1f}", data_id=entry_id(entry),
        ):  # fmt: skip
            _mark(into, entry.m, at, radii[entry.name], seen, look, box)
            if i in spots:
                _write(into, texts[i], spots[i], at, size)


def _inside(share: float) -> float:
    return min(1.0, max(0.0, share))


def entry_id(entry: Entry) -> str:
    """What marks, table rows and filters of the page have in common: unique to a measurement."""
    from masters_edge.benchmarks.report.gather import slot_of

    return f"{entry.number}-" + "-".join(str(part) for part in slot_of(entry.m)[1:])


def said(entry: Entry, x: Quantity) -> str:
    """A mark in words, for screen readers and tooltips."""
    m = entry.m
    parts = [f"{entry.number}, {entry.name}"]
    if m.accuracy is not None:
        parts.append(f"accuracy {style.per_cent(m)}%, 95% interval {m.accuracy.low:.1f} to {m.accuracy.high:.1f}")
    value = x.read(m)
    if value is not None and x is not axes.SIZE:
        parts.append(f"{x.title} {style.number(value)} {x.unit}")
    parts += [f"file size {style.size(m.size_bytes)}", f"{m.runtime}, {style.scheme_of(m)}"]
    return "; ".join(parts)


def _radius(m: Measurement, seen: View, look: Look) -> float:
    if seen.y is not axes.ACCURACY:
        return look.largest * 0.4
    if _outside(m, seen) != (0, 0):
        return look.font * 0.45
    return max(look.largest * math.sqrt(m.size_bytes / max(1, seen.largest)), look.font * _SMALLEST)


def _bar(m: Measurement, at: Point, seen: View, box: labels.Box) -> list[Point]:
    """The accuracy's interval as a line, inside the plot; nothing where it stands at the edge."""
    if m.accuracy is None or _outside(m, seen)[1]:
        return []
    _, top, _, bottom = box
    ends = (min(1.0, max(0.0, seen.up.share(value))) for value in (m.accuracy.low, m.accuracy.high))
    return [(at[0], bottom - share * (bottom - top)) for share in ends]


def _outside(m: Measurement, seen: View) -> tuple[int, int]:
    """In which direction (right, up) the mark lies beyond the plot; (0, 0) inside."""
    x, y = axes.positive(seen.x, m) or seen.across.low, seen.y.read(m) or seen.up.low
    return (
        int(x > seen.across.high * 1.0001) - int(x < seen.across.low * 0.9999),
        int(y > seen.up.high + 1e-9) - int(y < seen.up.low - 1e-9),
    )


def _mark(into: Scene, m: Measurement, at: Point, radius: float, seen: View, look: Look, box: labels.Box) -> None:
    colour, hollow = seen.colours[style.scheme_of(m)], style.is_reference(m)
    fill, stroke = ("paper", colour) if hollow else (colour, "ink")
    width = look.font * (0.17 if hollow else 0.07)
    shape = seen.shapes[m.runtime]
    into.add(scene.mark(shape, at, radius, fill=fill, stroke=stroke, width=width, opacity=0.85))
    if (outside := _outside(m, seen)) != (0, 0):  # an arrow: the mark itself lies farther on
        length = math.hypot(*outside)
        dx, dy = outside[0] / length, -outside[1] / length
        tip = (at[0] + dx * (radius + look.font * 0.5), at[1] + dy * (radius + look.font * 0.5))
        back, wing = look.font * 0.36, look.font * 0.3
        wings = [(tip[0] - dx * back + side * dy * wing, tip[1] - dy * back - side * dx * wing) for side in (1, -1)]
        into.add(scene.Path([wings[0], tip, wings[1]], width=look.font / 8))


def _label(entry: Entry, on_front: bool, seen: View, look: Look) -> list[str]:
    across, up = _outside(entry.m, seen)
    if across or up:
        value = axes.positive(seen.x, entry.m) or 0.0
        figures = [f"{style.per_cent(entry.m)}%"] if up and seen.y is axes.ACCURACY else []
        figures += [f"{style.number(value)} {seen.x.unit}"] if across else []
        return [f"{entry.number} {entry.name}", ", ".join(figures)]
    if look.named and (on_front or style.is_reference(entry.m)):
        return [f"{entry.number} {entry.name}"]
    return [str(entry.number)]


def _write(into: Scene, text: Sequence[str], spot: labels.Placed, at: Point, size: float) -> None:
    left, top, right, bottom = spot.box
    if spot.lined:
        end = (min(max(at[0], left), right), min(max(at[1], top), bottom))
        into.line(at, end, stroke="muted", width=size / 16)
    for number, line in enumerate(text):
        into.add(Text((left, top + size * (0.9 + 1.12 * number)), line, size, halo=True))


def _steps(points: Sequence[Point], box: labels.Box) -> list[Point]:
    """The front as a staircase: for each latency, the best that can be had within it."""
    steps: list[Point] = []
    for x, y in points:
        y = min(max(y, box[1]), box[3])
        steps += [(x, steps[-1][1])] if steps else []
        steps.append((x, y))
    return steps


def _axes(into: Scene, box: labels.Box, seen: View, look: Look) -> None:
    left, top, right, bottom = box
    size = look.font * 0.9
    for tick in seen.up.ticks(6 if not seen.up.log else 5):
        y = bottom - seen.up.share(tick) * (bottom - top)
        if seen.y is axes.ACCURACY and not 0 <= tick <= 100:
            continue
        into.line((left, y), (right, y), stroke="grid", width=look.font / 16)
        into.add(Text((left - size * 0.45, y + size * 0.35), f"{tick:g}", size, "end"))
    most = max(3, int((right - left) / (size * 4.2)))
    for tick in seen.across.ticks(most):
        x = left + seen.across.share(tick) * (right - left)
        into.line((x, top), (x, bottom), stroke="grid", width=look.font / 16)
        into.add(Text((x, bottom + size * 1.25), f"{tick:,.6g}", size, "middle"))
    into.line((left, top), (left, bottom), stroke="muted", width=look.font / 16)
    into.line((left, bottom), (right, bottom), stroke="muted", width=look.font / 16)
    wide = right - left > look.font * 30
    across = f"{seen.x.title if wide else seen.x.short}, {seen.x.unit}" + (
        " (median, log scale)" if wide and seen.x in (axes.ANSWER, axes.TTFT) else " (log)"
    )
    into.add(Text(((left + right) / 2, bottom + size * 2.6), across, size, "middle"))
    up = f"{seen.y.title}, {seen.y.unit}" + (" (log)" if seen.up.log else "")
    into.add(Text((left - size * 3.1, (top + bottom) / 2), up, size, "middle", upward=True))


def legend(into: Scene, at: Point, width: float, seen: View, font: float, front: bool = True) -> float:
    """Runtimes (shapes), schemes (colours), hollow marks and the front in words from `at`; returns the height used."""
    x, y, row = at[0], at[1], font * 1.5
    items: list[tuple[str, str, str]] = [("shape", s, style.runtime_title(n)) for n, s in seen.shapes.items()]
    items += [("colour", colour, name) for name, colour in seen.colours.items()]
    items += [("front", "", "Pareto front")] * front
    for kind, look, text in items:
        wide = font * 1.6 + scene.text_width(text, font) + font * 0.9
        if x + wide > at[0] + width and x > at[0]:
            x, y = at[0], y + row
        middle = (x + font * 0.6, y + font * 0.62)
        if kind == "shape":
            into.add(scene.mark(look, middle, font * 0.42, fill="paper", width=font * 0.1))
        elif kind == "colour":
            into.box(x + font * 0.1, y + font * 0.2, font, font * 0.84, fill=look, stroke="ink", width=font * 0.05)
        else:
            into.line(
                (x, middle[1]),
                (x + font * 1.3, middle[1]),
                stroke="muted",
                width=font / 9,
                dash=(font * 0.4, font * 0.25),
            )
        into.add(Text((x + font * 1.5, y + font), text, font))
        x += wide
    return y + row - at[1]
