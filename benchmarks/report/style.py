"""Colours, marks and number formats that the plots, the page and the terminal table share.

The palette is Okabe and Ito's (2008), which colour-blind readers can tell apart; role is also said in words beside
every mark, and a mark's shape says how the student ran.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from masters_edge.benchmarks.results import Measurement, Stage

INK, MUTED, GRID, PAPER = "#1b1f24", "#59636e", "#d5dae0", "#ffffff"
ROLE_COLOURS = {
    "teacher": "#0072b2",
    "student before": "#8c8c8c",
    "student after": "#009e73",
    "exported": "#d55e00",
}
ACCURACY_COLOUR, MASK_COLOUR = "#0072b2", "#cc79a7"
# A PyTorch checkpoint is a circle, an exported file a square.
MARKS = {"checkpoint": "o"}
OTHER_MARK = "s"

STAGE_TITLES = {
    "preprocess_ms": "preprocessing, ms",
    "vision_ms": "vision, ms",
    "prefill_ms": "prefill, ms",
    "ttft_ms": "time to first token, ms",
    "decode_tokens_per_s": "decode, tokens/s",
    "total_ms": "whole answer, ms",
    "cold_start_ms": "cold start, ms",
}


@contextmanager
def plotting(font_size: float) -> Iterator[Any]:
    """matplotlib's settings for one picture; yields `matplotlib`. A UserError where it isn't installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        from masters_edge.errors import UserError

        raise UserError("drawing a report needs matplotlib; run: pip install 'masters-edge[bench]'") from None
    import logging
    import warnings

    settings: Any = {
        "font.size": font_size,
        "axes.titlesize": font_size * 1.1,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.facecolor": PAPER,
        "figure.facecolor": PAPER,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "svg.fonttype": "none",
        "svg.hashsalt": "masters-edge",
        "text.usetex": False,
    }
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a name in a script DejaVu lacks
        yield matplotlib


def size(count: float) -> str:
    """Bytes for people, in powers of ten as file managers show them: "940 kB", "4.2 MB", "1.31 GB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale * 0.9995:
            return f"{number(count / scale)} {unit}"
    return f"{count:.0f} B"


def number(value: float) -> str:
    """Three significant digits, never in powers of ten: "0.123", "1.23", "12.3", "1,234"."""
    if value >= 99.95 or value == 0:
        return f"{value:,.0f}"
    if value >= 9.995:
        return f"{value:.1f}"
    if value >= 0.9995:
        return f"{value:.2f}"
    return f"{value:#.3g}" if value >= 0.001 else "<0.001"


def count(value: float) -> str:
    """Parameters and the like: "1.08 M", "62 k"."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale * 0.9995:
            return f"{number(value / scale)} {unit}"
    return f"{value:.0f}"


def seconds(value: float | None) -> str:
    """ "41 s", "12.4 min", "3.1 h"; "–" where unknown."""
    if value is None:
        return "–"
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def per_cent(measurement: Measurement) -> str:
    return f"{measurement.accuracy.per_cent:.1f}"


def interval(measurement: Measurement) -> str:
    return f"{measurement.accuracy.low:.1f} – {measurement.accuracy.high:.1f}"


def right(measurement: Measurement) -> str:
    """ "9,123 of 9,673", with a decimal where the metric gives partial credit."""
    value = measurement.accuracy.right
    shown = f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"
    return f"{shown} of {measurement.accuracy.asked:,}"


def median(stage: Stage | None) -> str:
    return "–" if stage is None else number(stage.median)
