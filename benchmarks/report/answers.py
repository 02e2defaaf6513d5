"""Two measurements' accuracies side by side: on the same questions pair by pair, else as two independent shares.

In: entries (a measurement and the folder its answers lie in). Out: a `Difference` in points of per cent.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from masters_edge.benchmarks.report import statistics
from masters_edge.benchmarks.report.entry import Entry
from masters_edge.common import files, inside
from masters_edge.common.errors import UserError

MEASURE = "measure again with: masters-edge bench --fresh"
MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class Difference:
    """New less old in points, its 95% interval, whether it is beyond chance, and by which method that is said."""

    points: float
    low: float
    high: float
    significant: bool
    method: str


def difference(old: Entry, new: Entry) -> Difference | None:
    """None where one of them has no accuracy, or other questions were asked.

    Raises:
        UserError: an answers file is damaged.
    """
    before, after = old.m.accuracy, new.m.accuracy
    if before is None or after is None or not _same_questions(old, new):
        return None
    points = after.per_cent - before.per_cent
    scores = _paired(old, new)
    if scores is None:
        low, high = statistics.newcombe(before.right, before.asked, after.right, after.asked)
        significant = low > 0 or high < 0
        method = "Newcombe's interval for independent shares (no answers to pair)"
    elif all(score in (0.0, 1.0) for pair in scores for score in pair):
        counts = {pair: scores.count(pair) for pair in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0))}
        low, high = statistics.newcombe_paired(*counts.values())
        p = statistics.mcnemar(counts[1.0, 0.0], counts[0.0, 1.0])
        significant = p < 0.05
        method = f"{len(scores):,} pairs of answers: McNemar's exact test, p = {p:.2g}; Newcombe's paired interval"
    else:
        low, high = statistics.bootstrap([y - x for x, y in scores])
        significant = low > 0 or high < 0
        method = f"{len(scores):,} pairs of answers: bootstrap interval"
    return Difference(points, 100 * low, 100 * high, significant, method)


def _same_questions(old: Entry, new: Entry) -> bool:
    return old.m.suite is not None and new.m.suite is not None and old.m.suite.sha256 == new.m.suite.sha256


def _paired(old: Entry, new: Entry) -> list[tuple[float, float]] | None:
    """(old score, new score) of each question; None where one of the two kept no answers, or not all of them."""
    before, after = _scores(old), _scores(new)
    if before is None or after is None or before.keys() != after.keys():
        return None
    return [(before[question], after[question]) for question in before]


def _scores(entry: Entry) -> dict[str, float] | None:
    m = entry.m
    if m.answers is None or m.accuracy is None:
        return None
    if not (entry.folder.joinpath(*inside.checked(entry.folder, m.answers, MEASURE))).is_file():
        return None  # results.json may have been sent alone
    scores = _read(inside.place(entry.folder, m.answers, MEASURE))
    # A file that another measurement has since written over would pair the wrong answers.
    if len(scores) != m.accuracy.asked or abs(sum(scores.values()) - m.accuracy.right) > 1e-6 * m.accuracy.asked:
        return None
    return scores


def _read(path: Path) -> dict[str, float]:
    scores: dict[str, float] = {}
    try:
        for line in files.read_text(path, MOST_BYTES).splitlines():
            row = json.loads(line)
            scores[str(row["id"])] = float(row["score"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        where = f"{path}, line {len(scores) + 1}"
        raise UserError(f"{where}: this is no answer ({type(error).__name__}: {error}); {MEASURE}") from None
    return scores
