"""The stages of training: held-out accuracy against steps, and under it the mask ratio, as steps.

In: a run's metrics.jsonl, one JSON object per line, any key may be missing. Out: a `Curve`, or two drawn axes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masters_edge.benchmarks.report import style
from masters_edge.common import files
from masters_edge.common.errors import UserError, reason
from masters_edge.common.plain import line as plain_line

_MOST_BYTES = 256 << 20  # of metrics.jsonl
_LARGEST = 10**12  # step or value that is drawn
_MOST_PHASES = 30  # that are marked


@dataclass(frozen=True)
class Curve:
    """`accuracy` and `mask`: (step, value) pairs, steps counted through all phases; `phases`: (first step, name)."""

    accuracy: tuple[tuple[int, float], ...]
    mask: tuple[tuple[int, float], ...]
    phases: tuple[tuple[int, str], ...]
    last_step: int
    cut: bool  # the last line was unfinished, the run is going on or was killed


def read(path: Path) -> Curve:
    """A run's metrics.jsonl.

    Steps that were run again after a resume count once (the later line holds); where a phase starts its steps at 0
    again, they go on from the end of the phase before. An unfinished last line is left out.

    Raises:
        UserError: a line that is no JSON object, or whose step is no whole number.
    """
    try:
        text = files.read_text(path, _MOST_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read ({error})") from None
    lines = text.split("\n")
    cut = bool(lines[-1].strip())
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise UserError(
                f"{path}, line {number}: this is no JSON ({reason(error)}); remove the line to go on"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: expected an object of metrics, found {type(row).__name__}")
        if number == len(lines):
            cut = False
        step = row.get("step")
        if step is None:
            continue
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= _LARGEST:
            raise UserError(f"{path}, line {number}: step is {str(step)[:40]!r}, expected a whole number of steps")
        rows.append(row)
    return _curve(rows, cut)


def of_run(run: Path) -> Curve | None:
    """The curve of a run's folder, where it has metrics."""
    metrics = run / "metrics.jsonl"
    return read(metrics) if metrics.is_file() else None


def _curve(rows: Sequence[dict[str, Any]], cut: bool) -> Curve:
    accuracy: dict[int, float] = {}
    mask: dict[int, float] = {}
    phases: list[tuple[int, str]] = []
    offset, last, phase = 0, 0, None
    for row in rows:
        name = row.get("phase")
        if name is not None and name != phase:
            if phase is not None and offset + row["step"] < last:
                offset = last
            if len(phases) < _MOST_PHASES:
                title = plain_line(str(row.get("objective", f"phase {name}")), 60)
                phases.append((offset + row["step"] if phases else 0, title))
            phase = name
        step = offset + row["step"]
        if step < last:  # resumed from an older checkpoint
            accuracy = {at: value for at, value in accuracy.items() if at < step}
            mask = {at: value for at, value in mask.items() if at < step}
        last = step
        for key, series in (("eval_accuracy", accuracy), ("mask_ratio", mask)):
            value = row.get(key)
            if series is mask and step in mask:
                continue  # where a phase begins: the step was trained with the ratio of the phase before
            if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST:
                series[step] = float(value)
    return Curve(tuple(accuracy.items()), tuple(mask.items()), tuple(phases), last, cut)


def missing(curve: Curve | None) -> str | None:
    """Why there is no curve to draw, in words for the place where it would stand; None where there is one."""
    if curve is None:
        return "The run has no training metrics"
    if not curve.accuracy:
        return "The training metrics hold no held-out accuracy"
    return None


def draw(upper: Any, lower: Any, curve: Curve | None, font_size: float) -> None:
    """Accuracy on `upper`, mask ratio on `lower`; what is missing is said in its place."""
    reason = missing(curve)
    if reason is not None or curve is None:
        for axes in (upper, lower):
            axes.set_axis_off()
        upper.text(0.5, 0.4, reason, ha="center", va="center", transform=upper.transAxes, wrap=True)
        return
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    steps, values = zip(*curve.accuracy)
    dense = len(steps) > 40
    upper.plot(steps, values, color=style.ACCURACY_COLOUR, linewidth=2.2, marker="" if dense else "o", markersize=5)
    upper.set_ylabel("held-out accuracy, %")
    upper.margins(x=0.02, y=0.14)
    upper.annotate(
        f"{values[-1]:.1f}",
        (steps[-1], values[-1]),
        xytext=(0, 8),
        textcoords="offset points",
        ha="right",
        color=style.INK,
        fontsize=font_size,
    )
    if len(curve.phases) > 1:
        _mark_phases(upper, lower, curve, font_size)
    lower.set_xlabel("training steps")
    lower.set_ylabel("mask ratio")
    if curve.mask:
        at, ratio = map(list, zip(*curve.mask))
        # A line's ratio is the one its step was trained with, so it holds up to that step ("pre").
        lower.fill_between(at, ratio, step="pre", color=style.MASK_COLOUR, alpha=0.35, linewidth=0)
        lower.step(at, ratio, where="pre", color=style.MASK_COLOUR, linewidth=2)
        top = max(max(ratio) * 1.2, 0.05)
        lower.set_ylim(-0.04 * top, top)  # a ratio of 0 stays visible above the axis
    else:
        lower.set_yticks([])
        lower.text(0.5, 0.5, "no mask ratio in the metrics", ha="center", va="center", transform=lower.transAxes)
    lower.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    lower.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    lower.yaxis.set_major_locator(MaxNLocator(nbins=3, steps=[1, 2, 5, 10]))
    upper.tick_params(labelbottom=False)


def _mark_phases(upper: Any, lower: Any, curve: Curve, font_size: float) -> None:
    for index, (start, name) in enumerate(curve.phases):
        if index:
            for axes in (upper, lower):
                axes.axvline(start, color=style.MUTED, linewidth=1, linestyle=":")
        upper.annotate(
            name,
            (start, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -2),
            textcoords="offset points",
            ha="left",
            va="top",
            fontsize=font_size * 0.85,
            color=style.MUTED,
            parse_math=False,
        )
