"""`report --compare OLD NEW`: what got better, what got worse, and what may be noise.

In: two sets of measurements. Out: `Comparison`, printed as a table and written as compare.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from masters_edge.benchmarks.report import answers, axes, browsers, gather, markdown, notes, statistics, style
from masters_edge.benchmarks.report.axes import Quantity
from masters_edge.benchmarks.report.entry import Entry
from masters_edge.benchmarks.report.gather import Gathered
from masters_edge.benchmarks.results import Stage

# A median's own error says how sure one run is of itself. From run to run the same files may differ by more: other
# pages of memory, another clock, another neighbour. Less than this share (our choice) is noise whatever the error says.
RUN_TO_RUN = 0.05
_TIMED = ((axes.ANSWER, "total_ms"), (axes.TTFT, "ttft_ms"), (axes.TOKENS, "decode_tokens_per_s"))
Outcome = Literal["better", "worse", "no difference beyond noise", "not comparable"]


@dataclass(frozen=True)
class Line:
    """One figure of one measurement, old and new, in words."""

    name: str
    device: str
    figure: str
    old: str
    new: str
    change: str
    outcome: Outcome


@dataclass(frozen=True)
class Comparison:
    lines: tuple[Line, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    remarks: tuple[str, ...]


def compare(old: Gathered, new: Gathered) -> Comparison:
    """Match by name, suite, device, runtime and threads.

    Raises:
        UserError: an answers file is damaged.
    """
    before = {gather.slot_of(e.m): e for e in old.entries}
    after = {gather.slot_of(e.m): e for e in new.entries}
    lines: list[Line] = []
    remarks: dict[str, None] = {}
    methods: dict[str, list[str]] = {}
    for slot, entry in after.items():
        if slot in before:
            found, said = _pair(before[slot], entry, methods)
            lines += found
            remarks |= dict.fromkeys(said)
    for method, names in methods.items():
        remarks[f"Accuracy of {', '.join(dict.fromkeys(names))}: {method}."] = None
    judged = sum(len(names) for names in methods.values())
    if judged >= 10:
        remarks[f"At 95%, one accuracy in twenty seems to differ by chance alone; {judged} were compared."] = None
    return Comparison(
        tuple(lines),
        tuple(_title(e) for slot, e in before.items() if slot not in after),
        tuple(_title(e) for slot, e in after.items() if slot not in before),
        tuple(remarks),
    )


def _title(entry: Entry) -> str:
    suite = f", {entry.m.suite.name}" if entry.m.suite else ""
    return f"{entry.name} on {gather.label(entry.m.device)}, {gather.threads(entry.m)}{suite}"


def _pair(old: Entry, new: Entry, methods: dict[str, list[str]]) -> tuple[list[Line], list[str]]:
    """Lines of one measurement, what is to be remarked, and under `methods` how its accuracies were compared."""
    device = gather.label(new.m.device)
    remarks = []

    def line(figure: str, was: str, now: str, change: str, outcome: Outcome) -> Line:
        return Line(new.name, device, figure, was, now, change, outcome)

    lines = []
    if old.m.accuracy or new.m.accuracy:
        found = answers.difference(old, new)
        if found is None:
            lines.append(line("accuracy, %", style.per_cent(old.m), style.per_cent(new.m), "–", "not comparable"))
            remarks.append(f"{new.name}: other questions were asked, so accuracies can't be compared.")
        else:
            change = f"{found.points:+.1f} ({found.low:+.1f} to {found.high:+.1f})"
            outcome = _outcome(found.points > 0, found.significant)
            lines.append(line("accuracy, %", style.per_cent(old.m), style.per_cent(new.m), change, outcome))
            methods.setdefault(found.method, []).append(new.name)
    for quantity, stage in _TIMED:
        was, now = getattr(old.m.latency, stage), getattr(new.m.latency, stage)
        if was is not None and now is not None and was.median > 0:
            change = f"{100 * (now.median / was.median - 1):+.1f}%"
            outcome = _outcome((now.median > was.median) == quantity.higher_is_better, _moved(was, now))
            lines.append(line(_heading(quantity), style.number(was.median), style.number(now.median), change, outcome))
    if old.m.size_bytes:
        share = new.m.size_bytes / old.m.size_bytes - 1
        outcome = _outcome(share < 0, new.m.size_bytes != old.m.size_bytes)
        sizes = style.size(old.m.size_bytes), style.size(new.m.size_bytes)
        lines.append(line("file size", *sizes, f"{100 * share:+.1f}%", outcome))
    if old.m.peak_rss_mib and new.m.peak_rss_mib:
        share = new.m.peak_rss_mib / old.m.peak_rss_mib - 1
        peaks = style.number(old.m.peak_rss_mib), style.number(new.m.peak_rss_mib)
        lines.append(
            line("peak memory, MiB", *peaks, f"{100 * share:+.1f}%", _outcome(share < 0, abs(share) >= RUN_TO_RUN))
        )
    return lines, remarks + _conditions(old, new)


def _heading(quantity: Quantity) -> str:
    return f"{quantity.short}, {quantity.unit}"


def _outcome(improved: bool, beyond_noise: bool) -> Outcome:
    if not beyond_noise:
        return "no difference beyond noise"
    return "better" if improved else "worse"


def _moved(old: Stage, new: Stage) -> bool:
    return statistics.medians_differ(old, new) and abs(new.median / old.median - 1) >= RUN_TO_RUN


def _conditions(old: Entry, new: Entry) -> list[str]:
    """What else changed, which may explain a difference."""
    said = []
    changed = [
        f"{package} {old.m.versions[package]} to {version}"
        for package, version in new.m.versions.items()
        if package in old.m.versions and old.m.versions[package] != version
    ]
    if changed:
        said.append(f"{new.name}: versions changed ({', '.join(changed)}).")
    if notes.is_busy(old.m) or notes.is_busy(new.m):
        said.append(f"{new.name}: other programs kept the machine busy, so its latencies are doubtful.")
    if browsers.is_hidden(old.m) or browsers.is_hidden(new.m):
        said.append(f"{new.name}: the page was out of sight meanwhile, so its latencies are doubtful.")
    if old.m.device.cpu != new.m.device.cpu:
        said.append(f"{new.name}: measured on another CPU ({old.m.device.cpu}, now {new.m.device.cpu}).")
    return said


def table(found: Comparison) -> Group:
    """For the terminal, 80 columns: a table for each device, in it a row for each measurement."""
    by_device: dict[str, dict[str, dict[str, Line]]] = {}
    for line in found.lines:
        by_device.setdefault(line.device, {}).setdefault(line.name, {})[line.figure] = line
    figures = dict.fromkeys(line.figure for line in found.lines)
    tables = []
    for device, rows in by_device.items():
        grid = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            title=Text(device, style="bold"),
            title_justify="left",
            padding=(0, 1, 0, 0),
        )
        grid.add_column("student", overflow="fold", min_width=8)
        for figure in figures:
            heading = figure.replace("time to first token", "TTFT").replace("file size", "file\nsize")
            grid.add_column(heading.replace(", ", "\n"), justify="right", no_wrap=figure.startswith("accuracy"))
        for name, cells in rows.items():
            grid.add_row(Text(name), *(_cell(cells.get(figure)) for figure in figures))
        tables.append(grid)
    return Group(*tables)


_STYLES = {"better": "bold green", "worse": "bold red"}


def _cell(line: Line | None) -> Text:
    """The change, and in words, since not everybody sees colours, whether it is one."""
    if line is None:
        return Text("–")
    words = {"better": "\nbetter", "worse": "\nworse", "not comparable": "?"}.get(line.outcome, "")
    change = line.change.replace(" (", "\n(").replace(" to ", "…")
    return Text(change + words if line.change != "–" else words, style=_STYLES.get(line.outcome, "dim"))


def summary(found: Comparison) -> list[str]:
    """What got better and worse in a sentence each, and what stands in one of the two alone."""
    said = []
    for outcome in ("better", "worse"):
        hits = [f"{line.name}: {line.figure} {line.change}" for line in found.lines if line.outcome == outcome]
        said.append(f"{outcome}: {'; '.join(hits) or 'nothing beyond noise'}")
    said += [f"only in the old: {'; '.join(found.only_old)}"] * bool(found.only_old)
    said += [f"only in the new: {'; '.join(found.only_new)}"] * bool(found.only_new)
    return said


def render(found: Comparison, old: Sequence[str], new: Sequence[str]) -> str:
    """compare.md."""
    lines = ["# Comparison", "", markdown.escape(f"old: {', '.join(old)}") + "  "]
    lines += [markdown.escape(f"new: {', '.join(new)}"), ""]
    lines += [f"- {markdown.escape(sentence)}" for sentence in summary(found)] + [""]
    if found.lines:
        rows = [(x.name, x.device, x.figure, x.old, x.new, x.change, x.outcome) for x in found.lines]
        lines += [*markdown.table(["student", "device", "figure", "old", "new", "change", "outcome"], rows, 3), ""]
    else:
        lines += ["No measurement stands in both: names, suites, devices, runtimes or threads differ.", ""]
    lines += ["## By which rules", ""]
    lines += [
        f"A latency counts as changed where its medians lie further apart than 1.96 standard errors (from spread and "
        f"number of answers) and by {100 * RUN_TO_RUN:.0f}% or more, memory by {100 * RUN_TO_RUN:.0f}% or more; "
        f"less is taken for what differs from run to run anyway. A file size counts where it differs at all.",
        "",
    ]
    lines += [f"- {markdown.escape(remark)}" for remark in found.remarks]
    return "\n".join(lines).rstrip() + "\n"
