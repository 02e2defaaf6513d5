"""The pictures put together: report.png for a slide, and the page's SVGs, each wide and narrow.

A slide has a band for each device: the trade-off plot, and beside it the stage bars, which are its key.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

from masters_edge.benchmarks.report import (
    axes,
    gather,
    ladder,
    scales,
    scene,
    stages,
    style,
    sustained,
    tradeoff,
    training,
)
from masters_edge.benchmarks.report.axes import Quantity
from masters_edge.benchmarks.report.entry import Entry
from masters_edge.benchmarks.report.ladder import Ladder
from masters_edge.benchmarks.report.scene import Scene, Text
from masters_edge.benchmarks.report.training import Curve

WIDTH, HEIGHT, DPI = 2000, 1125, 150
_BANDS = 2  # devices that a slide has room for
_VARIABLES = {style.INK: "--ink", style.MUTED: "--muted", style.GRID: "--grid", style.PAPER: "--paper"}


def slide(entries: Sequence[Entry], curve: Curve | None, title: str, subtitle: str) -> bytes:
    """A PNG of 2000 x 1125 pixels (16:9); the training curve takes a column on the left where there is one."""
    font = 24.0
    drawn = curve if training.missing(curve) is None else None
    into = Scene(WIDTH, HEIGHT)
    into.add(Text((36, 62), scene.fit(title, 44, WIDTH - 80), 38, bold=True))
    into.add(Text((36, 102), scene.fit(subtitle, 22, WIDTH - 72), 22, colour="muted"))
    left = 500.0 if drawn else 36.0
    _bands(into, entries, left, font)
    with style.plotting(font * 72 / DPI):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        # A hair more, since matplotlib cuts fractions of a pixel off.
        figure = Figure(figsize=((WIDTH + 0.01) / DPI, (HEIGHT + 0.01) / DPI), dpi=DPI)
        FigureCanvasAgg(figure)
        scene.paint(figure.add_axes((0, 0, 1, 1)), into)
        if drawn:
            grid = figure.add_gridspec(
                2, 1, height_ratios=(3.2, 1), left=0.058, right=0.215, top=0.8, bottom=0.1, hspace=0.1
            )
            upper = figure.add_subplot(grid[0])
            lower = figure.add_subplot(grid[1], sharex=upper)
            upper.set_title("Training", pad=26)
            note = "held-out questions, %, and the mask ratio"
            upper.text(0, 1.02, note, transform=upper.transAxes, fontsize=8.5, color=style.MUTED)
            figure.align_ylabels([upper, lower])
            training.draw(upper, lower, drawn, 11)
            lower.locator_params(axis="x", nbins=3)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=DPI)
        return stream.getvalue()


def _bands(into: Scene, entries: Sequence[Entry], left: float, font: float) -> None:
    devices = gather.by_device(entries)
    shown, more = devices[:_BANDS], devices[_BANDS:]
    view = tradeoff.view(entries, axes.ANSWER, entries)
    right = WIDTH - 36.0
    split = left + (right - left) * (0.46 if left > 100 else 0.54)
    plot, key = _headings(entries)
    into.add(Text((left, 158), plot, font * 1.1, bold=True), Text((split + 40, 158), key, font * 1.1, bold=True))
    top = 172.0
    small = font * 0.84
    used = 0.0
    if view is not None:
        used = tradeoff.legend(into, (left, top), split - left, view, small)
    used = max(used, stages.legend(into, split + 40, top, small, entries))
    top += used + font * 0.3
    total = HEIGHT - 14.0 - top
    shares = [max(8, len(rows)) + 4 for _, rows in shown]
    for share, (text, rows) in zip(shares, shown):
        room = total * share / sum(shares)
        into.add(Text((left, top + font * 0.9), scene.fit(text, font * 1.1, right - left), font * 0.95, bold=True))
        inner = top + font * 2.0
        own = tradeoff.view(_scaled(rows, entries), axes.ANSWER, entries)
        if own is None:
            into.add(Text((left + 60, inner + room / 3), "No latency was measured", font))
        else:
            box = (left + font * 3.4, inner, split, top + room - font * 3.1)
            tradeoff.draw(into, box, rows, own, tradeoff.Look(font, 27.0 if len(shown) == 1 else 20.0))
        _key(
            into,
            split + 40,
            inner - font * 0.75,
            right - split - 40,
            top + room - inner + font * 0.4,
            rows,
            entries,
            font,
        )
        top += room
    if more:
        note = f"{len(more)} more device{'s' * (len(more) > 1)} in report.html"
        into.add(Text((right, 102), note, 22, "end", "muted"))


def _headings(entries: Sequence[Entry]) -> tuple[str, str]:
    if tradeoff.vertical(entries) is axes.ACCURACY:
        return "Accuracy against latency (area: file size)", "What an answer's time is spent on (median)"
    return "File size against latency (accuracy wasn't measured)", "What an answer's time is spent on (median)"


def _scaled(rows: Sequence[Entry], entries: Sequence[Entry]) -> Sequence[Entry]:
    """What the latency axis must hold: all devices, so that they compare, unless one would shrink to a corner."""
    values = [value for e in entries if (value := axes.positive(axes.ANSWER, e.m)) is not None]
    return entries if values and scales.around(values, True).decades < 1.1 else rows


def _key(
    into: Scene, left: float, top: float, width: float, room: float, rows: Sequence[Entry], everyone: Sequence[Entry],
    font: float,
) -> None:  # fmt: skip
    """Stage bars in the room there is; what doesn't fit is left to the page, the front and the references never."""
    least, largest = 22.0, 38.0
    fits = max(1, int((room - font * 2.0) // least))
    kept = list(rows)
    if len(kept) > fits:
        front = tradeoff.pareto(rows)
        must = [e for e in rows if e in front or style.is_reference(e.m)]
        rest = [e for e in stages.ordered(rows) if e not in must]
        kept = [*must, *rest][: fits - 1]
    high = min(largest, (room - font * 2.2) / max(1, len(kept) + (len(kept) < len(rows))))
    look = stages.Rows(min(font * 0.88, high * 0.76), high)
    stages.draw(into, left, top, width, kept, everyone, look)
    if len(kept) < len(rows):
        note = f"and {len(rows) - len(kept)} more in report.html"
        into.add(Text((left, top + stages.height(kept, look) + high * 0.7), note, look.font, colour="muted"))
        return
    below = top + stages.height(kept, look) + font * 0.8
    front = [e for e in tradeoff.pareto(rows) if not style.is_reference(e.m)]
    rest = [e for e in stages.ordered(rows) if e not in front]
    stages.draw_cases(into, left, below, width, top + room - below, [*front, *rest], font * 0.8)


def tradeoff_svg(rows: Sequence[Entry], everyone: Sequence[Entry], x: Quantity, width: float, device: str) -> str:
    """One device's panel for the page, in pixels of a desktop or a phone; says so where nothing can be drawn."""
    narrow = width < 400
    font = 12.0 if narrow else 13.0
    into = Scene(width, width * (1.0 if narrow else 0.72 if width < 600 else 0.56))
    seen = tradeoff.view(rows, x, everyone)
    label = f"{tradeoff.vertical(everyone).title} against {x.title} on {device}; the table holds the same figures"
    if seen is None:
        into = Scene(width, font * 3)
        into.add(Text((font, font * 1.8), f"{x.title} wasn't measured here", font, colour="muted"))
    else:
        box = (font * 3.3, font * 0.9, width - font, into.height - font * 3.2)
        tradeoff.draw(into, box, rows, seen, tradeoff.Look(font, 15.0 if narrow else 17.0))
    better = "up" if tradeoff.vertical(everyone).higher_is_better else "down"
    return scene.svg(into, role="group", aria_label=label, class_="tradeoff", data_better=better)


def legend_svg(entries: Sequence[Entry], width: float) -> str:
    seen = tradeoff.view(entries, axes.SIZE, entries) or tradeoff.view(entries, axes.ANSWER, entries)
    if seen is None:
        return ""
    height = tradeoff.legend(Scene(width, 0), (0, 0), width, seen, 13)
    into = Scene(width, height + 3)
    tradeoff.legend(into, (0, 0), width, seen, 13)
    return scene.svg(into, aria_hidden="true")


def stages_svg(rows: Sequence[Entry], everyone: Sequence[Entry], width: float) -> str:
    """Stage bars of one device for the page."""
    narrow = width < 400
    look = stages.Rows(12.5, 38.0, two_lines=True) if narrow else stages.Rows(13.0, 25.0, cases=True)
    into = Scene(width, stages.height(rows, look) + 24)
    stages.draw(into, 2, stages.legend(into, 2, 0, 12.0 if narrow else 12.5, rows), width - 4, rows, everyone, look)
    return scene.svg(into, role="img", aria_label="Stages of an answer; the tables hold the same figures")


def sustained_svg(rows: Sequence[Entry], everyone: Sequence[Entry], width: float) -> str:
    into = sustained.draw(rows, everyone, width, 12.0 if width < 400 else 13.0)
    return scene.svg(into, role="img", aria_label="Speed over time; the table below holds the ends")


def icon_svg(entry: Entry, everyone: Sequence[Entry]) -> str:
    """A mark for the tables of the page."""
    measured = [e.m for e in everyone]
    into = Scene(14, 14)
    colour = style.scheme_colours(measured)[style.scheme_of(entry.m)]
    hollow = style.is_reference(entry.m)
    look: dict[str, Any] = {"fill": "paper" if hollow else colour, "stroke": colour if hollow else "ink"}
    into.add(scene.mark(style.runtime_shapes(measured)[entry.m.runtime], (7, 7), 5, width=2 if hollow else 0.8, **look))
    return scene.svg(into, aria_hidden="true", class_="icon")


def training_svg(curve: Curve, narrow: bool) -> str:
    """The training plot for the page."""
    size = 11.5 if narrow else 11.0

    def paint(figure: Any) -> None:
        left = 0.165 if narrow else 0.09
        grid = figure.add_gridspec(
            2, 1, height_ratios=(3.2, 1.1), left=left, right=0.98, top=0.97, bottom=0.135, hspace=0.1
        )
        upper = figure.add_subplot(grid[0])
        training.draw(upper, figure.add_subplot(grid[1], sharex=upper), curve, size)

    return _svg(paint, (4.4, 4.4) if narrow else (8.0, 4.6), size, "training")


def ladder_svg(ladders: Sequence[Ladder], narrow: bool) -> str:
    """The mask ladders for the page."""
    size = 11.5 if narrow else 11.0

    def paint(figure: Any) -> None:
        left, columns = (0.19, 1) if narrow else (0.1, 2)
        top = 0.97 - 0.055 * -(-len(ladders) // columns)  # a line of the legend each
        grid = figure.add_gridspec(
            2, 1, height_ratios=(2.2, 1), left=left, right=0.98, top=top, bottom=0.125, hspace=0.1
        )
        upper = figure.add_subplot(grid[0])
        lower = figure.add_subplot(grid[1], sharex=upper)
        ladder.draw(upper, lower, ladders, size, columns)
        figure.align_ylabels([upper, lower])

    return _svg(paint, (4.4, 4.6) if narrow else (8.0, 4.6), size, "ladder")


def _svg(paint: Any, inches: tuple[float, float], font_size: float, name: str) -> str:
    with style.plotting(font_size):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=inches, dpi=72)
        FigureCanvasAgg(figure)
        paint(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return _inline(stream.getvalue(), f"{name}-{inches[0]:g}".replace(".", "_"))


def _inline(svg: str, prefix: str) -> str:
    """matplotlib's SVG document as an element of our page: no preamble, ids of its own, colours as variables, and
    attributes in place of inline styles, which the page's Content-Security-Policy forbids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # its rules would hold for the whole page
    svg = re.sub(r' style="([^"]*)"', _attributes, svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg


def _attributes(style_of: re.Match[str]) -> str:
    """CSS declarations as presentation attributes; of a font only the size, since the page has one of its own."""
    said = ""
    for declaration in style_of[1].split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font" and (size := re.search(r"[\d.]+(?=px)", value)):
            said += f' font-size="{size[0]}"'
        elif key in ("fill", "stroke", "opacity", "text-anchor", "font-size") or key.startswith(("stroke-", "fill-")):
            said += f' {key}="{value}"'
    return said
