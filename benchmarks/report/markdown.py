"""report.md: the table, the cases and what was measured how, for a wiki or a pull request.

Whatever comes from data is escaped, so that a name can't become a heading, a link or HTML.
"""

import re
from collections.abc import Sequence

from masters_edge.benchmarks.report import gather, notes
from masters_edge.benchmarks.report.columns import columns
from masters_edge.benchmarks.report.gather import Gathered


def escape(text: str) -> str:
    """One line of literal text."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]|#~$])", r"\\\1", text)
    # Bare addresses become links on most hosts; a zero-width break after the colon keeps them text.
    return text.replace("://", ":&#8203;//")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of a table, its first `left` columns to the left and the rest to the right."""
    marks = [":--"] * left + ["--:"] * (len(headings) - left)
    return [f"| {' | '.join(map(escape, cells))} |" for cells in (headings,)] + [
        f"| {' | '.join(marks)} |",
        *(f"| {' | '.join(map(escape, cells))} |" for cells in rows),
    ]


def render(found: Gathered, title: str) -> str:
    """The whole file."""
    lines = ["# Report", ""] if title in gather.by_suite(found.entries) else [f"# {escape(title)}", ""]
    for name, rows in gather.by_suite(found.entries).items():
        lines += [f"## {escape(name)}", "", escape(notes.asked(rows)), ""]
        for device, own in gather.by_device(rows):
            lines += [
                f"### {escape(device)}",
                "",
                escape(" ".join(filter(None, (notes.doubts(own), notes.summary(own))))),
                "",
            ]
            lines += [f"On the Pareto front: {escape(notes.front_names(own))}.", ""]
            shown = columns(own)
            body = [[str(e.number), e.name, *(column.text(e.m) for column in shown)] for e in own]
            lines += [*table(["#", "student", *(column.heading for column in shown)], body, 2), ""]
            cases = notes.case_table(own)
            if cases:
                lines += ["Time to first token and decode speed by picture and prompt:", ""]
                lines += [
                    *table(
                        ["student", *cases.columns],
                        [[e.name, *(", ".join(filter(None, c)) for c in cells)] for e, cells in cases.rows],
                    ),
                    "",
                ]
    lines += ["## How this was measured", ""]
    for paragraph in notes.protocol(found.entries):
        lines += [escape(paragraph), ""]
    for device, own in gather.by_device(found.entries):
        lines += [f"### {escape(device)}", "", *table(["what", "value"], notes.device_facts(own), 2), ""]
    return "\n".join(lines)
