"""The pictures: report.png for a slide, and the same two plots as SVG for the page, wide and narrow.

SVG text stays text, and its four neutral colours become CSS variables, so that a page can be dark.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

from masters_edge.benchmarks.report import ladder, style, tradeoff, training
from masters_edge.benchmarks.report.ladder import Ladder
from masters_edge.benchmarks.report.training import Curve
from masters_edge.benchmarks.results import Measurement

_VARIABLES = {style.INK: "--ink", style.MUTED: "--muted", style.GRID: "--grid", style.PAPER: "--paper"}


def slide(measurements: Sequence[Measurement], curve: Curve | None, title: str, subtitle: str) -> bytes:
    """A PNG of 2000 x 1125 pixels (16:9): training on the left, accuracy against latency on the right."""
    size = 13.0
    with style.plotting(size):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(13.333, 7.5), dpi=150)
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(
            2, 2, height_ratios=(3.2, 1), width_ratios=(1, 1.35), left=0.065, right=0.985, top=0.80, bottom=0.095,
            hspace=0.1, wspace=0.17,
        )  # fmt: skip
        upper = figure.add_subplot(grid[0, 0])
        lower = figure.add_subplot(grid[1, 0], sharex=upper)
        right = figure.add_subplot(grid[:, 1])
        figure.text(0.018, 0.955, title, fontsize=size * 1.5, weight="bold", va="center", parse_math=False)
        figure.text(0.018, 0.905, subtitle, fontsize=size * 0.9, color=style.MUTED, va="center", parse_math=False)
        upper.set_title("Training", pad=26)
        right.set_title("Accuracy against latency (bubble area: file size)", pad=26)
        if training.missing(curve) is None:
            note = "accuracy on held-out questions; below, the mask ratio"
            upper.text(0, 1.025, note, transform=upper.transAxes, fontsize=size * 0.85, color=style.MUTED)
        figure.align_ylabels([upper, lower])
        training.draw(upper, lower, curve, size)
        tradeoff.draw(right, measurements, size)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150)
        return stream.getvalue()


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


def tradeoff_svg(measurements: Sequence[Measurement], narrow: bool, name: str) -> str:
    """The accuracy-against-latency plot for the page; `name` keeps its ids apart from other pictures'."""
    size = 11.5 if narrow else 11.0

    def paint(figure: Any) -> None:
        axes = figure.add_subplot()
        left, bottom, top = (0.15, 0.125, 0.85) if narrow else (0.08, 0.115, 0.92)
        axes.set_position((left, bottom, 0.985 - left, top - bottom))
        tradeoff.draw(axes, measurements, size, narrow)

    return _svg(paint, (4.4, 4.8) if narrow else (8.0, 5.0), size, f"tradeoff-{name}")


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
    """An SVG document as an element of an HTML page: no preamble, ids of its own, colours as variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    svg = svg.replace("xlink:href", "href")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # its rules would hold for the whole page
    return re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
