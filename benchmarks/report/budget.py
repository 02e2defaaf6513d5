"""`report --budget ttft=500ms,size=200MB`: the best bundle inside a budget, or the one that comes closest.

Best is the most accurate; where its lead over a faster one may be chance, the faster one. Per device and suite.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from masters_edge.benchmarks.report import answers, axes, gather, style
from masters_edge.benchmarks.report.axes import Quantity
from masters_edge.benchmarks.report.entry import Entry
from masters_edge.benchmarks.report.gather import Gathered
from masters_edge.common.errors import UserError

_KEYS = {
    "ttft": axes.TTFT, "answer": axes.ANSWER, "size": axes.SIZE, "memory": axes.MEMORY, "accuracy": axes.ACCURACY,
    "tokens": axes.TOKENS, "energy": axes.ENERGY, "cold": axes.COLD,
}  # fmt: skip
_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3, "min": 6e4}
_BYTES = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
# Per unit that a quantity is in: what people may write, as factors.
_UNITS: dict[str, dict[str, float]] = {
    "ms": _TIMES,
    "MB": {unit: size / 1e6 for unit, size in _BYTES.items()},
    "MiB": {unit: size / 2**20 for unit, size in _BYTES.items()},
    "%": {"": 1.0, "%": 1.0},
    "tokens/s": {"": 1.0, "/s": 1.0, "tokens/s": 1.0},
    "J": {"J": 1.0, "mJ": 1e-3},
}
_EXAMPLE = "such as ttft=500ms,size=200MB,memory=300MiB,answer=1s,accuracy=80,tokens=20"


@dataclass(frozen=True)
class Limit:
    """`value` in the quantity's unit: the most there may be, or the least where higher is better; `text` as written."""

    quantity: Quantity
    value: float
    text: str

    def miss(self, entry: Entry) -> float | None:
        """By what share the limit is missed, 0 where it is kept; None where the quantity wasn't measured."""
        found = self.quantity.read(entry.m)
        if found is None:
            return None
        if self.quantity.higher_is_better:
            return max(0.0, self.value / found - 1) if found > 0 else float("inf")
        return max(0.0, found / self.value - 1)


@dataclass(frozen=True)
class BudgetVerdict:
    """For one device and suite: the entry chosen, whether it keeps every limit, and what is to be said about it."""

    title: str
    entry: Entry
    fits: bool
    remarks: tuple[str, ...]


def parse(text: str) -> list[Limit]:
    """Limits as a person writes them.

    Raises:
        UserError: an unknown key, a number that is none, a unit that isn't the quantity's.
    """
    limits: dict[str, Limit] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in _KEYS:
            known = ", ".join(_KEYS)
            raise UserError(f"--budget: {part.strip()!r} is no limit; use some of {known}, {_EXAMPLE}")
        if key in limits:
            raise UserError(f"--budget: {key} is limited twice; give it once")
        limits[key] = Limit(_KEYS[key], _value(key, value, _UNITS[_KEYS[key].unit]), value)
    return list(limits.values())


def _value(key: str, text: str, units: dict[str, float]) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z%/]*)", text)
    named = {unit.casefold(): factor for unit, factor in units.items()}
    if found is None or found[2].casefold() not in named:
        shown = [unit for unit in units if unit]
        raise UserError(
            f"--budget: {key}={text} is no figure with a unit of it ({', '.join(shown)}); write it {_EXAMPLE}"
        )
    value = float(found[1]) * named[found[2].casefold()]
    if value <= 0:
        raise UserError(f"--budget: {key}={text} leaves room for nothing; give a figure above 0")
    return value


def choose(found: Gathered, limits: Sequence[Limit]) -> list[BudgetVerdict]:
    """A verdict for each suite and device.

    Raises:
        UserError: nothing that was exported is in the results.
    """
    verdicts = []
    suites = gather.by_suite(found.entries)
    for suite, rows in suites.items():
        for device, own in gather.by_device(rows):
            exported = [e for e in own if not style.is_reference(e.m)]
            if exported:
                title = device if len(suites) == 1 else f"{device}, {suite}"
                verdicts.append(_best(title, exported, limits))
    if not verdicts:
        raise UserError(
            "a budget chooses among exported files, and none was measured; make some with: masters-edge export"
        )
    return verdicts


def _best(title: str, entries: Sequence[Entry], limits: Sequence[Limit]) -> BudgetVerdict:
    misses = {id(e): [limit.miss(e) for limit in limits] for e in entries}
    fitting = [e for e in entries if all(miss == 0 for miss in misses[id(e)])]
    if not fitting:
        # What wasn't measured can't be known to fit: it comes after everything that was.
        def far(entry: Entry) -> tuple[int, float, float]:
            known = [miss for miss in misses[id(entry)] if miss is not None]
            return len(limits) - len(known), sum(known), -_accuracy(entry)

        closest = min(entries, key=far)
        return BudgetVerdict(
            title, closest, False, tuple(_missed(closest, limit) for limit in limits if limit.miss(closest) != 0)
        )
    top = max(fitting, key=lambda e: (_accuracy(e), -_latency(e)))
    alike = [e for e in fitting if e is top or _may_equal(e, top)]
    best = min(alike, key=lambda e: (_latency(e), -_accuracy(e)))
    remarks = [f"{len(fitting)} of {len(entries)} exported files fit"]
    if best is not top:
        found = answers.difference(best, top)
        assert found is not None
        remarks.append(
            f"{top.name} has {found.points:.1f} points more ({found.low:+.1f} to {found.high:+.1f}), which may be "
            f"chance, and takes {style.number(_latency(top))} ms: the faster one is preferred"
        )
    return BudgetVerdict(title, best, True, tuple(remarks))


def _accuracy(entry: Entry) -> float:
    return axes.ACCURACY.read(entry.m) or 0.0


def _latency(entry: Entry) -> float:
    value = axes.ANSWER.read(entry.m)
    return float("inf") if value is None else value


def _may_equal(entry: Entry, top: Entry) -> bool:
    """Whether `top`'s lead over a file that is faster may be chance; without accuracy all are alike."""
    if top.m.accuracy is None:
        return True
    found = answers.difference(entry, top)
    return found is not None and not found.significant


def _missed(entry: Entry, limit: Limit) -> str:
    value, quantity = limit.quantity.read(entry.m), limit.quantity
    if value is None:
        return f"{quantity.title} wasn't measured, so {limit.text} can't be promised"
    miss = limit.miss(entry) or 0.0
    way = "below" if quantity.higher_is_better else "above"
    by = abs(value - limit.value)
    share = f" ({100 * by / limit.value:.0f}%)" if miss else ""
    return f"{quantity.title} {_shown(value, quantity)} is {_shown(by, quantity)}{share} {way} {limit.text}"


def _shown(value: float, quantity: Quantity) -> str:
    if quantity is axes.SIZE:
        return style.size(value * 1e6)
    return f"{style.number(value)} {quantity.unit}" if quantity.unit != "%" else f"{value:.1f}%"


def figures(entry: Entry) -> str:
    """The figures of one entry in a line, with its path."""
    m = entry.m
    said = [f"{style.per_cent(m)}% ({m.accuracy.low:.1f} to {m.accuracy.high:.1f})"] if m.accuracy else []
    for quantity in (axes.ANSWER, axes.TTFT, axes.TOKENS, axes.SIZE, axes.MEMORY, axes.ENERGY):
        value = quantity.read(m)
        if value is not None:
            said.append(f"{quantity.short if quantity is not axes.TOKENS else 'decode'} {_shown(value, quantity)}")
    return ", ".join(said)


def lines(verdicts: Sequence[BudgetVerdict], limits: Sequence[Limit]) -> list[str]:
    """What to print."""
    asked = ", ".join(
        f"{limit.quantity.title} {'≥' if limit.quantity.higher_is_better else '≤'} {limit.text}" for limit in limits
    )
    out = [f"budget: {asked}"]
    for verdict in verdicts:
        entry = verdict.entry
        heading = "best inside the budget" if verdict.fits else "nothing fits; closest"
        out += ["", f"{verdict.title}", f"  {heading}: {entry.name}", f"  {figures(entry)}", f"  {entry.m.path}"]
        out += [f"  {remark}" for remark in verdict.remarks]
    return out
