"""Colours, marks and number formats that the plots, the page and the terminal table share.

Colours are Okabe and Ito's (2008), which colour-blind readers can tell apart: one for each scheme. A mark's shape is
its runtime. Number, name, scheme and runtime also stand in words in the table beside every picture.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from masters_edge.benchmarks.results import Measurement, Stage

INK, MUTED, GRID, PAPER = "#1b1f24", "#59636e", "#d5dae0", "#ffffff"
ACCURACY_COLOUR, MASK_COLOUR = "#0072b2", "#cc79a7"
# Of Okabe and Ito's, the three for fp32, int8 and int4 lie farthest apart for all: at least 51 in Lab with normal
# sight, deuteranopia and protanopia (simulated as by Viénot, Brettel and Mollon 1999).
SCHEME_COLOURS = {"fp32": "#0072b2", "fp16": "#56b4e9", "int8": "#e69f00", "int4": "#009e73"}
_MORE_COLOURS = ("#d55e00", "#cc79a7", "#f0e442")
_REST = "#8c8c8c"
RUNTIME_SHAPES = {
    "pytorch": "circle",
    "onnxruntime": "square",
    "openvino": "diamond",
    "executorch": "triangle",
    "llamacpp": "cross",
    "coremltools": "down",
    "wasm": "star",
    "webgpu": "pentagon",
}
_RUNTIME_TITLES = {
    "pytorch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "executorch": "ExecuTorch",
    "llamacpp": "llama.cpp",
    "coremltools": "Core ML",
    "wasm": "ONNX Runtime Web, WASM",
    "webgpu": "ONNX Runtime Web, WebGPU",
}
_MORE_SHAPES = ("star", "pentagon")
# One hue from dark to light, so that no stage looks like a scheme.
STAGE_COLOURS = {"preprocessing": "#2d2a4a", "vision": "#615a94", "prefill": "#a29bcb", "decode": "#dedaf0"}

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
        from masters_edge.common.errors import UserError

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


def scheme_of(measurement: Measurement) -> str:
    """The scheme's short name: PyTorch says float32 where exported files say fp32."""
    return {"float32": "fp32", "float16": "fp16"}.get(measurement.scheme, measurement.scheme)


def scheme_colours(measurements: Sequence[Measurement]) -> dict[str, str]:
    """A colour for each scheme there is; beyond seven the rest is grey, and told apart by numbers alone."""
    found = dict.fromkeys(scheme_of(m) for m in measurements)
    more = iter(_MORE_COLOURS)
    known = {name: SCHEME_COLOURS[name] for name in SCHEME_COLOURS if name in found}
    return known | {name: next(more, _REST) for name in found if name not in known}


def runtime_shapes(measurements: Sequence[Measurement]) -> dict[str, str]:
    """A shape for each runtime there is."""
    found = dict.fromkeys(m.runtime for m in measurements)
    more = iter(_MORE_SHAPES)
    known = {name: RUNTIME_SHAPES[name] for name in RUNTIME_SHAPES if name in found}
    return known | {name: next(more, "pentagon") for name in found if name not in known}


def runtime_title(name: str) -> str:
    """A runtime as its makers write it."""
    return _RUNTIME_TITLES.get(name, name)


def is_reference(measurement: Measurement) -> bool:
    """A PyTorch checkpoint beside which the exported files stand."""
    return measurement.role != "exported"


def per_cent(measurement: Measurement) -> str:
    return "–" if measurement.accuracy is None else f"{measurement.accuracy.per_cent:.1f}"


def interval(measurement: Measurement) -> str:
    found = measurement.accuracy
    return "–" if found is None else f"{found.low:.1f} – {found.high:.1f}"


def right(measurement: Measurement) -> str:
    """ "9,123 of 9,673", with a decimal where the metric gives partial credit."""
    if measurement.accuracy is None:
        return "–"
    value = measurement.accuracy.right
    shown = f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"
    return f"{shown} of {measurement.accuracy.asked:,}"


def median(stage: Stage | None) -> str:
    return "–" if stage is None else number(stage.median)
