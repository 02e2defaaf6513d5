"""How much masking each teacher bears: its accuracy, and under it its divergence from itself, against the mask ratio.

In: a run's mask.json, which is there where `mask.r_max` was `auto`. Out: `Ladder`s, or two drawn axes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masters_edge.benchmarks.report import style
from masters_edge.common import files
from masters_edge.common.errors import UserError, reason
from masters_edge.common.plain import line

_MOST_BYTES = 16 << 20  # of mask.json
_MOST = 100  # teachers, and rungs of one

SCHEMA_VERSION = 1
# Okabe and Ito's, beside a mark and a dash pattern each, so that colour alone never tells two teachers apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_MARKS = ("o", "s", "^", "D")
_LINES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Ladder:
    """One teacher: (ratio, accuracy in per cent, JSD to itself unmasked) rising by ratio, and what was chosen."""

    name: str
    rungs: tuple[tuple[float, float, float], ...]
    r_max: float
    rule: str
    accuracy_is: str
    questions: int


def read(path: Path) -> tuple[Ladder, ...]:
    """A run's mask.json; nothing where there is none, since r_max was then a number.

    Raises:
        UserError: the file is damaged or of another version.
    """
    if not path.exists():
        return ()
    try:
        found = json.loads(files.read_text(path, _MOST_BYTES))
        if found["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {found['schema_version']}, expected {SCHEMA_VERSION}")
        return tuple(_ladder(teacher) for teacher in found["teachers"][:_MOST])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(f"{path} can't be read ({type(error).__name__}: {reason(error)})") from None


def _ladder(teacher: dict[str, Any]) -> Ladder:
    rungs = [(float(r["ratio"]), float(r["accuracy"]), float(r["jsd_to_itself"])) for r in teacher["ladder"][:_MOST]]
    r_max = float(teacher["r_max"])
    if r_max not in [ratio for ratio, _, _ in rungs] or not all(abs(one) <= 1e6 for rung in rungs for one in rung):
        raise ValueError(f"no rung at r_max {r_max:g}, or one out of bounds")
    return Ladder(
        name=line(Path(teacher["source"]).name, 60),
        rungs=tuple(rungs),
        r_max=r_max,
        rule=line(str(teacher["rule"]), 300),
        accuracy_is=line(str(teacher["accuracy_is"]), 100),
        questions=int(teacher["questions"]),
    )


def draw(upper: Any, lower: Any, ladders: Sequence[Ladder], font_size: float, columns: int) -> None:
    """Accuracy on `upper`, JSD on `lower`, a legend in `columns` above.

    The chosen ratio of each teacher has a vertical line and a filled mark.
    """
    for number, ladder in enumerate(ladders):
        colour, mark = _COLOURS[number % len(_COLOURS)], _MARKS[number % len(_MARKS)]
        ratios, accuracies, divergences = zip(*ladder.rungs)
        for axes, values, label in ((upper, accuracies, _label(ladder)), (lower, divergences, None)):
            axes.plot(
                ratios, values, color=colour, linestyle=_LINES[number % len(_LINES)], linewidth=2, marker=mark,
                markersize=6, markerfacecolor=style.PAPER, label=label,
            )  # fmt: skip
            axes.axvline(ladder.r_max, color=colour, linewidth=1, linestyle=":")
            axes.plot(ladder.r_max, values[ratios.index(ladder.r_max)], color=colour, marker=mark, markersize=9)
    kinds = list(dict.fromkeys(ladder.accuracy_is for ladder in ladders))
    upper.set_ylabel("\n".join(kinds))
    upper.set_ylim(bottom=0)
    upper.margins(y=0.08)
    legend = upper.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        fontsize=font_size * 0.9,
        frameon=False,
        borderaxespad=0.3,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    lower.set_ylabel("JSD to itself")
    lower.set_xlabel("mask ratio")
    lower.set_ylim(bottom=0)
    lower.yaxis.get_major_locator().set_params(nbins=4)
    upper.tick_params(labelbottom=False)


def _label(ladder: Ladder) -> str:
    return f"{ladder.name}, chosen {ladder.r_max:.2f}"
