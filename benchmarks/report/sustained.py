"""The sustained loop: how fast each student still was as time went on, and under it the temperature where it's known.

In: entries that have a sustained loop, of one device. Out: a `Scene`. Speed is in per cent of each one's first stretch.
"""

from collections.abc import Sequence

from masters_edge.benchmarks.report import scales, scene, style
from masters_edge.benchmarks.report.entry import Entry
from masters_edge.benchmarks.report.scene import Scene, Text


def looped(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.m.sustained is not None]


def draw(entries: Sequence[Entry], everyone: Sequence[Entry], width: float, font: float) -> Scene:
    """Speed over time, a line for each; temperature below where any device stretch has one."""
    rows = looped(entries)
    warm = any(moment.celsius is not None for e in rows for moment in _moments(e))
    into = Scene(width, font * (30 if warm else 19))
    left, right = font * 4.6, width - font * 9
    last = max(moment.at_s for e in rows for moment in _moments(e)) / 60
    minutes = scales.Scale(0.0, last * 1.02)
    speeds = [(100 * _moments(e)[0].total_ms / m.total_ms) for e in rows for m in _moments(e) if m.total_ms > 0]
    up = scales.around([*speeds, 100.0], False, 0.1, 10.0)
    colours = style.scheme_colours([e.m for e in everyone])
    shapes = style.runtime_shapes([e.m for e in everyone])
    panels = [(font, font * 15.5, up, "speed, % of the start")]
    if warm:
        degrees = [m.celsius for e in rows for m in _moments(e) if m.celsius is not None]
        panels.append((font * 17.5, font * 26.5, scales.around(degrees, False, 0.1, 5.0), "temperature, °C"))
    for top, bottom, scale, title in panels:
        for tick in scale.ticks(5):
            y = bottom - scale.share(tick) * (bottom - top)
            into.line((left, y), (right, y), stroke="grid")
            into.add(Text((left - font * 0.5, y + font * 0.35), f"{tick:g}", font * 0.9, "end"))
        into.line((left, bottom), (right, bottom), stroke="muted")
        into.add(Text((font, (top + bottom) / 2), title, font * 0.9, "middle", upward=True))
    bottom = panels[-1][1]
    for tick in minutes.ticks(6):
        into.add(
            Text((left + minutes.share(tick) * (right - left), bottom + font * 1.3), f"{tick:g}", font * 0.9, "middle")
        )
    into.add(Text(((left + right) / 2, bottom + font * 2.7), "minutes", font * 0.9, "middle"))
    ends: list[tuple[float, Entry]] = []
    for entry in rows:
        moments = [m for m in _moments(entry) if m.total_ms > 0]
        if not moments:
            continue
        colour = colours[style.scheme_of(entry.m)]
        for (top, bottom, scale, _), series in zip(
            panels,
            (
                [(m.at_s / 60, 100 * moments[0].total_ms / m.total_ms) for m in moments],
                [(m.at_s / 60, m.celsius) for m in moments if m.celsius is not None],
            ),
        ):
            points = [
                (left + minutes.share(x) * (right - left), bottom - scale.share(y) * (bottom - top)) for x, y in series
            ]
            with into.group(class_="line", data_id=_id(entry)):
                if len(points) > 1:
                    into.add(scene.Path(points, stroke=colour, width=font / 7))
                for point in points[:: max(1, len(points) // 12)]:
                    into.add(
                        scene.mark(shapes[entry.m.runtime], point, font * 0.33, fill=colour, stroke="ink", width=0.7)
                    )
            if scale is up and points:
                ends.append((points[-1][1], entry))
    floor = 0.0
    for y, entry in sorted(ends, key=lambda end: end[0]):
        floor = max(y + font * 0.35, floor + font * 1.1)
        into.add(
            Text(
                (right + font * 0.6, floor),
                scene.fit(f"{entry.number} {entry.name}", font * 0.9, font * 8.2),
                font * 0.9,
            )
        )
    return into


def _moments(entry: Entry):
    assert entry.m.sustained is not None
    return entry.m.sustained.moments


def _id(entry: Entry) -> str:
    from masters_edge.benchmarks.report.tradeoff import entry_id

    return entry_id(entry)
