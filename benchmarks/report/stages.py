"""What an answer's time is spent on: stacked bars of median preprocessing, vision, prefill and decode.

The bars are the pictures' key too: each row has the number, mark and name that stand in the trade-off plot.
In: entries of one device. Out: a part of a `Scene`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from masters_edge.benchmarks.report import axes, scene, style
from masters_edge.benchmarks.report.entry import Entry
from masters_edge.benchmarks.report.scene import Scene, Text
from masters_edge.benchmarks.report.tradeoff import entry_id
from masters_edge.benchmarks.results import Case, Latency, Measurement

_LONGEST = 1.3  # references that take more than so many times the slowest exported file have a torn bar


def parts(latency: Latency) -> dict[str, float] | None:
    """Medians in ms of the stages of an answer; decode is the whole answer after its first token.

    None where the runtime doesn't tell them apart.
    """
    values = [axes.median(latency, name) for name in ("preprocess_ms", "vision_ms", "prefill_ms")]
    whole, first = axes.median(latency, "total_ms"), axes.median(latency, "ttft_ms")
    if whole is None or first is None or any(value is None for value in values):
        return None
    known = [value or 0.0 for value in values]
    return dict(zip(style.STAGE_COLOURS, [*known, max(0.0, whole - first)]))


@dataclass(frozen=True)
class Rows:
    """How rows are laid out: `font` and row height in pixels, and which columns of figures stand beside the bars."""

    font: float
    height: float
    two_lines: bool = False
    cases: bool = False


def ordered(entries: Sequence[Entry]) -> list[Entry]:
    """Fastest first; what wasn't timed last."""
    return sorted(entries, key=lambda e: axes.ANSWER.read(e.m) or float("inf"))


def height(entries: Sequence[Entry], look: Rows) -> float:
    return look.font * 2.2 + look.height * len(entries)


def draw(
    into: Scene, left: float, top: float, width: float, entries: Sequence[Entry], everyone: Sequence[Entry], look: Rows
) -> None:
    """Draw a heading and a row for each entry, fastest first; colours and shapes as for `everyone`."""
    rows, font = ordered(entries), look.font
    colours = style.scheme_colours([e.m for e in everyone])
    shapes = style.runtime_shapes([e.m for e in everyone])
    figures = _figures(rows, look)
    wide = [
        max(scene.text_width(text, font) for text in (*heading, *column)) + font * 0.9 for heading, column in figures
    ]
    name_width = 0.0 if look.two_lines else min(
        max(scene.text_width(e.name, font) for e in rows) + font * 0.8, width * 0.3
    )  # fmt: skip
    start = left + font * 3.2 + name_width
    end = left + width - sum(wide) - font * 0.3
    longest = _axis_end(rows)
    x = end + font * 0.3
    for (heading, _), column_width in zip(figures, wide):
        x += column_width
        for line, text in enumerate(heading):
            into.add(
                Text((x, top + font * (0.75 + 1.05 * (line + 2 - len(heading)))), text, font * 0.88, "end", "muted")
            )
    for index, entry in enumerate(rows):
        row_top = top + font * 2.2 + look.height * index
        base = row_top + (font * 1.05 if look.two_lines else look.height / 2 + font * 0.36)
        with into.group(class_="bar", data_id=entry_id(entry)):
            into.add(Text((left + font * 1.3, base), str(entry.number), font, "end"))
            _icon(into, entry.m, (left + font * 2.2, base - font * 0.36), font, colours, shapes)
            into.add(Text((left + font * 3.2, base), scene.fit(entry.name, font, name_width or width * 0.55), font))
            thick = min(font * 0.95, look.height * 0.62)
            bar_top = row_top + font * 1.5 if look.two_lines else row_top + (look.height - thick) / 2
            room = (left + width if look.two_lines else end) - start
            _bar(into, entry.m, start, bar_top, room, thick, longest)
            x = end + font * 0.3
            for (_, column), column_width in zip(figures, wide):
                x += column_width
                into.add(Text((x, base), column[index], font, "end"))


def _icon(
    into: Scene, m: Measurement, at: tuple[float, float], font: float, colours: dict[str, str], shapes: dict[str, str]
) -> None:
    colour, hollow = colours[style.scheme_of(m)], style.is_reference(m)
    into.add(
        scene.mark(
            shapes[m.runtime], at, font * 0.4, fill="paper" if hollow else colour,
            stroke=colour if hollow else "ink", width=font * (0.17 if hollow else 0.07),
        )
    )  # fmt: skip


def _figures(rows: Sequence[Entry], look: Rows) -> list[tuple[tuple[str, ...], list[str]]]:
    """Columns as (heading, a text for each row)."""
    columns: list[tuple[tuple[str, ...], list[str]]] = []
    if any(e.m.accuracy for e in rows):
        columns.append((("accuracy", "%"), [style.per_cent(e.m) for e in rows]))
    if not look.two_lines:
        columns.append((("size",), [style.size(e.m.size_bytes) for e in rows]))
    columns.append((("answer", "ms"), [style.median(e.m.latency.total_ms) for e in rows]))
    if look.cases and any(_case_ends(e.m) for e in rows):
        columns.append((("TTFT, ms", "small–large"), [_span(e.m, "ttft_ms") for e in rows]))
        columns.append((("tokens/s", "small–large"), [_span(e.m, "decode_tokens_per_s") for e in rows]))
    return columns


def _case_ends(m: Measurement) -> list[Latency]:
    """The cases with the shortest and the longest prompt."""
    measured = sorted(
        (c for c in m.cases if c.latency), key=lambda c: c.prompt_tokens or c.image_width * c.image_height
    )
    return [c.latency for c in (*measured[:1], *measured[1:][-1:]) if c.latency]


def _span(m: Measurement, name: str) -> str:
    ends = [style.median(getattr(latency, name)) for latency in _case_ends(m)]
    return " – ".join(ends) if ends else "–"


def _axis_end(rows: Sequence[Entry]) -> float:
    totals = [(total, style.is_reference(e.m)) for e in rows if (total := axes.ANSWER.read(e.m))]
    if not totals:
        return 1.0
    exported = [total for total, reference in totals if not reference]
    longest = max(total for total, _ in totals)
    return min(longest, _LONGEST * max(exported)) if exported else longest


def _bar(into: Scene, m: Measurement, left: float, top: float, width: float, thick: float, longest: float) -> None:
    whole = axes.ANSWER.read(m)
    if whole is None:
        into.add(Text((left, top + thick * 0.8), "no latency was measured", thick * 0.85, colour="muted"))
        return
    split = parts(m.latency)
    scale = width / longest
    cut = whole > longest * 1.001
    x = left
    for name, value in (split or {"": whole}).items():
        wide = min(value * scale, left + width - x)
        if wide > 0:
            fill = style.STAGE_COLOURS[name] if name else "paper"
            into.box(x, top, wide, thick, fill=fill, stroke="muted" if not name else "paper", width=thick * 0.05)
        x += wide
    into.box(left, top, x - left, thick, stroke="muted", width=thick * 0.05)
    if cut:  # torn: two slanted strokes in the paper's colour
        for shift in (1.4, 0.7):
            at = left + width - shift * thick
            into.line(
                (at, top + thick * 1.15), (at + thick * 0.4, top - thick * 0.15), stroke="paper", width=thick * 0.25
            )


def draw_cases(
    into: Scene, left: float, top: float, width: float, room: float, rows: Sequence[Entry], font: float
) -> None:
    """A small table of time to first token (ms) and decode speed (tokens/s) by picture and prompt, for as many of
    `rows` as there is room for; nothing where there is none."""
    measured = [e for e in rows if e.m.cases]
    fits = int((room - font * 4.2) // (font * 1.35))
    if not measured or fits < 1:
        return
    names = list(dict.fromkeys(case.name for e in measured for case in e.m.cases))[:4]
    shown = {case.name: case for e in measured for case in e.m.cases}
    into.add(Text((left, top + font), "First token in ms · tokens/s, by picture and prompt", font * 1.05, bold=True))
    first = width * 0.26
    step = (width - first) / len(names)
    texts = {(e.name, c.name): _case_figures(c) for e in measured for c in e.m.cases}
    widest = max(scene.text_width(text, font) for text in texts.values())
    small = font * min(1.0, 0.95 * step / widest)
    for column, name in enumerate(names):
        case = shown[name]
        x = left + first + step * (column + 1)
        into.add(Text((x, top + font * 2.5), f"{case.image_width}x{case.image_height}", font * 0.88, "end", "muted"))
        into.add(Text((x, top + font * 3.55), case.prompt, font * 0.88, "end", "muted"))
    for line, entry in enumerate(measured[:fits]):
        base = top + font * (4.9 + 1.35 * line)
        into.add(Text((left, base), scene.fit(f"{entry.number} {entry.name}", font, first), font))
        for column, name in enumerate(names):
            at = (left + first + step * (column + 1), base)
            into.add(Text(at, texts.get((entry.name, name), "–"), small, "end"))


def _case_figures(case: Case) -> str:
    if case.latency is None:
        return "skipped"
    return " · ".join(style.median(figure) for figure in (case.latency.ttft_ms, case.latency.decode_tokens_per_s))


def legend(into: Scene, left: float, top: float, font: float, rows: Sequence[Entry]) -> float:
    """Stages in words beside their colours; returns the height used."""
    x = left
    for name, colour in style.STAGE_COLOURS.items():
        into.box(x, top + font * 0.15, font * 0.95, font * 0.95, fill=colour, stroke="muted", width=font * 0.05)
        into.add(Text((x + font * 1.3, top + font), name, font))
        x += font * 2.2 + scene.text_width(name, font)
    if any(axes.ANSWER.read(e.m) is not None and parts(e.m.latency) is None for e in rows):
        into.box(x, top + font * 0.15, font * 0.95, font * 0.95, fill="paper", stroke="muted", width=font * 0.05)
        into.add(Text((x + font * 1.3, top + font), "not told apart", font))
    return font * 1.6
