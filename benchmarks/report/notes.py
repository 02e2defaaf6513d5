"""What was measured how, in words: general sentences, facts of each device, what stands out, what is missing.

In: entries. Out: plain text, which page and Markdown escape as each needs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from masters_edge.benchmarks.report import axes, browsers, gather, style, tradeoff
from masters_edge.benchmarks.report.entry import Entry
from masters_edge.benchmarks.results import Case, Measurement

PROTOCOL = (
    "Every subject ran in fresh processes of its own with the number of threads stated. After a few warm-up answers, "
    "the questions of the latency sample (the same for all subjects) were asked one at a time; times start with the "
    "decoded image and end with the finished answer. Time to first token contains preprocessing, vision and prefill; "
    "decode, in the bars, is the median whole answer less the median time to first token. Cold start runs from the "
    "start of the process to the end of its first answer; the file cache is not emptied before. Peak memory is the "
    "process's largest resident set up to the end of the latency sample.",
    "Accuracy is over all the questions asked, greedy answers, with 95% Wilson intervals. Intervals say how far the "
    "figure may be off for want of questions; they don't hold the variation between training runs. The Pareto front "
    "goes by the figures alone: where intervals overlap, its members may not really differ.",
    "Agreement is the share of answers that are, letter for letter, those of the same student in PyTorch.",
)


def summary(rows: Sequence[Entry]) -> str:
    """The fastest, the most accurate and the smallest exported file of one device, in a sentence."""
    rows = [e for e in rows if not style.is_reference(e.m)] or list(rows)
    said = []
    timed = [e for e in rows if axes.positive(axes.ANSWER, e.m)]
    if timed:
        said.append(f"fastest {_brief(min(timed, key=lambda e: axes.ANSWER.read(e.m) or 0))}")
    scored = [e for e in rows if e.m.accuracy]
    if scored:
        best = max(scored, key=lambda e: (axes.ACCURACY.read(e.m) or 0, -(axes.ANSWER.read(e.m) or 0)))
        said.append(f"most accurate {_brief(best)}")
    said.append(f"smallest {_brief(min(rows, key=lambda e: e.m.size_bytes))}")
    text = "; ".join(said) + "."
    return text[0].upper() + text[1:]


def _brief(entry: Entry) -> str:
    m = entry.m
    figures = [f"{style.per_cent(m)}%"] if m.accuracy else []
    figures += [f"{style.number(value)} ms"] if (value := axes.ANSWER.read(m)) is not None else []
    return f"{entry.name} ({', '.join([*figures, style.size(m.size_bytes)])})"


def busy(rows: Sequence[Entry]) -> str | None:
    """A sentence where other programs took so much of a device that its latencies are doubtful."""
    taken = [e for e in rows if is_busy(e.m)]
    if not taken:
        return None
    others = [e.m.conditions.other_cores for e in taken if e.m.conditions.other_cores is not None]
    how = f" (up to {max(others):.1f} of {taken[0].m.device.cores} cores)" if others else ""
    return f"Other programs kept this device busy{how}: latencies are doubtful."


def doubts(rows: Sequence[Entry]) -> str | None:
    """What makes the latencies of a device doubtful, where something does."""
    return " ".join(filter(None, (busy(rows), browsers.hidden(rows)))) or None


def is_busy(m: Measurement) -> bool:
    """Whether half a core's work or more was other programs'; by the load before where that isn't known."""
    taken, load = m.conditions.other_cores, m.conditions.load_before
    return taken >= 0.5 if taken is not None else load is not None and load > 0.5 * m.device.cores


def asked(rows: Sequence[Entry]) -> str:
    """How the questions of one suite were asked."""
    m = rows[0].m
    if m.suite is None or m.accuracy is None:
        return "No questions were asked for accuracy (a preview): there are latency, memory and size alone."
    batched = [e.name for e in rows if e.m.batched]
    counts = sorted({e.m.latency_questions for e in rows})
    text = (
        f"{m.suite.name}: {m.accuracy.asked:,} questions, metric {m.suite.metric}, questions {m.suite.sha256[:12]}; "
        f"latency over {' or '.join(f'{count:,}' for count in counts)} of them, one at a time."
    )
    return text + (f" Answered in batches beyond the latency sample: {', '.join(batched)}." if batched else "")


def protocol(rows: Sequence[Entry]) -> tuple[str, ...]:
    """How it was measured, a paragraph each."""
    return PROTOCOL + ((browsers.PROTOCOL,) if any(entry.m.device.browser for entry in rows) else ())


def device_facts(rows: Sequence[Entry]) -> list[tuple[str, str]]:
    """(what, value) for one device; what it can't tell stands there as a sentence."""
    measured = [e.m for e in rows]
    device = measured[-1].device
    facts = [
        ("machine", device.name + (f", {device.model}" if device.model else "")),
        ("reached over", device.kind + (f", {device.address}" if device.address else "")),
        ("processor", f"{device.cpu} ({device.architecture})"),
        ("cores", f"{device.cores} ({device.logical_cores} logical)"),
        ("memory", "not told" if device.ram_mib is None else f"{device.ram_mib / 1024:.1f} GiB"),
        ("system", _each(measured, lambda m: m.device.os)),
        *browsers.facts(rows),
        *([("Python", _each(measured, lambda m: m.device.python or "not told"))] if device.python else []),
        ("threads", _each(measured, lambda m: str(m.threads))),
        ("versions", versions(measured)),
        ("other load before (1 minute)", _range([m.conditions.load_before for m in measured], "")),
        ("cores taken by other programs meanwhile", _range([m.conditions.other_cores for m in measured], "")),
        ("temperature before", _range([m.conditions.celsius_before for m in measured], " °C")),
        ("temperature after", _range([m.conditions.celsius_after for m in measured], " °C")),
        ("clock before", _range([m.conditions.mhz_before for m in measured], " MHz")),
        ("clock after", _range([m.conditions.mhz_after for m in measured], " MHz")),
        ("governor", _each(measured, lambda m: m.conditions.governor or "not told")),
        ("energy", _each(measured, lambda m: m.energy.source if m.energy else "not measured")),
        ("measured here", ", ".join(dict.fromkeys(e.name for e in rows))),
    ]
    missing = dict.fromkeys(sentence for m in measured for sentence in m.unmeasured)
    return facts + [("can't be told here", " ".join(missing))] * bool(missing)


def _each(measured: Sequence[Measurement], read: Callable[[Measurement], str]) -> str:
    return "; ".join(dict.fromkeys(read(m) for m in measured))


def _range(values: Sequence[float | None], unit: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "not told"
    low, high = min(known), max(known)
    text = f"{low:,.3g}" if high < 1000 else f"{low:,.0f}"
    other = f"{high:,.3g}" if high < 1000 else f"{high:,.0f}"
    return (text if text == other else f"{text} to {other}") + unit


def versions(measured: Sequence[Measurement]) -> str:
    found: dict[str, dict[str, None]] = {}
    for m in measured:
        for package, version in m.versions.items():
            found.setdefault(package, {})[version] = None
    return ", ".join(f"{package} {' or '.join(numbers)}" for package, numbers in sorted(found.items()))


@dataclass(frozen=True)
class CaseTable:
    """`columns`: cases in words; `rows`: an entry with a cell for each: (time to first token, decode speed), or (why
    there are none, "")."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, tuple[tuple[str, str], ...]], ...]


def case_table(rows: Sequence[Entry]) -> CaseTable | None:
    """Picture sizes and prompt lengths of one device: time to first token and decode speed."""
    cases: dict[str, Case] = {}
    for entry in rows:
        for case in entry.m.cases:
            cases.setdefault(case.name, case)
    if not cases:
        return None
    columns = tuple(
        f"{c.image_width} x {c.image_height} picture, {c.prompt} prompt{_tokens(name, rows)}"
        for name, c in cases.items()
    )
    found = [(e, {case.name: case for case in e.m.cases}) for e in rows]
    return CaseTable(columns, tuple((e, tuple(_cell(own.get(name)) for name in cases)) for e, own in found if own))


def _tokens(name: str, rows: Sequence[Entry]) -> str:
    counts = sorted({c.prompt_tokens for e in rows for c in e.m.cases if c.name == name and c.prompt_tokens})
    if not counts:
        return ""
    return f" ({counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "") + " tokens)"


def _cell(case: Case | None) -> tuple[str, str]:
    if case is None:
        return "not measured", ""
    if case.latency is None:
        return f"skipped: {case.skipped or 'no reason given'}", ""
    first, rate = axes.median(case.latency, "ttft_ms"), axes.median(case.latency, "decode_tokens_per_s")
    return (
        f"{style.number(first)} ms" if first is not None else "–",
        f"{style.number(rate)} tokens/s" if rate is not None else "–",
    )


def front_names(rows: Sequence[Entry]) -> str:
    return ", ".join(e.name for e in tradeoff.pareto(rows)) or "none"


def subtitle(entries: Sequence[Entry]) -> str:
    """Below the slide's title: on what, and where the rest is."""
    labels = [text for text, _ in gather.by_device(entries)]
    said = f"Measured on {'; '.join(labels)}"
    said += ". Other programs kept a device busy: latencies are doubtful" if busy(entries) else ""
    return said + (". A page was out of sight: latencies are doubtful" if browsers.hidden(entries) else "")
