"""The results as a table for the terminal."""

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from masters_edge.benchmarks.report import style
from masters_edge.benchmarks.report.gather import label, threads
from masters_edge.benchmarks.results import Measurement, Results


def table(results: Results) -> Group:
    """Per subject: accuracy with its interval, agreement with PyTorch, latency of a whole answer, size, peak memory.

    It fits 80 columns. A column for steps and seconds of training appears where a subject has them, one for the suite
    where there are several; several devices have a table each. Without accuracy (previews) the time to first token
    takes its place.
    """
    devices: dict[str, list[Measurement]] = {}
    for m in results.measurements:
        devices.setdefault(_device(m), []).append(m)
    suites = list(dict.fromkeys(m.suite.name for m in results.measurements if m.suite))
    return Group(*(_one(rows, _title(suites, device, len(devices))) for device, rows in devices.items()))


def _title(suites: list[str], device: str, devices: int) -> str:
    return ", ".join([*sorted(suites), *([device] if devices > 1 else [])])


def _one(rows: list[Measurement], title: str) -> Table:
    suites = {m.suite.name if m.suite else "no questions" for m in rows}
    scored = any(m.accuracy for m in rows)
    agreeing = any(m.agreement for m in rows)
    trained = any(m.training.steps is not None or m.training.seconds is not None for m in rows)
    grid = Table(
        title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    grid.add_column("student", overflow="fold", min_width=8)
    if len(suites) > 1:
        grid.add_column("suite", overflow="fold")
    if scored:
        grid.add_column("accuracy %\n(interval)", justify="right", no_wrap=True)
    if agreeing:
        grid.add_column("same as\nPyTorch", justify="right", no_wrap=True)
    grid.add_column("answer ms\n(p90)" if scored else "TTFT ms\n(answer)", justify="right", no_wrap=True)
    for heading in ("tokens\n/s", "file\nsize", "peak\nMiB"):
        grid.add_column(heading, justify="right", no_wrap=True)
    if trained:
        grid.add_column("steps\n(trained)", justify="right", no_wrap=True)
    for m in rows:
        # Text, not markup: a name may hold square brackets.
        grid.add_row(*(Text(cell) for cell in _cells(m, len(suites) > 1, scored, agreeing, trained)))
    return grid


def _device(m: Measurement) -> str:
    return f"{label(m.device)}, {threads(m)}"


def _cells(m: Measurement, suites: bool, scored: bool, agreeing: bool, trained: bool) -> list[str]:
    cells = [m.name]
    if suites:
        cells.append(m.suite.name if m.suite else "–")
    if scored:
        found = m.accuracy
        cells.append(f"{style.per_cent(m)}\n({found.low:.1f}–{found.high:.1f})" if found else "–")
    if agreeing:
        cells.append(f"{m.agreement.per_cent:.1f}%" if m.agreement else "–")
    whole, first = m.latency.total_ms, m.latency.ttft_ms
    if scored:
        cells.append("–" if whole is None else f"{style.number(whole.median)}\n({style.number(whole.p90)})")
    else:
        cells.append(f"{style.median(first)}\n({style.median(whole)})")
    cells += [
        style.median(m.latency.decode_tokens_per_s),
        style.size(m.size_bytes),
        "–" if m.peak_rss_mib is None else style.number(m.peak_rss_mib),
    ]
    if trained:
        steps = "–" if m.training.steps is None else f"{m.training.steps:,}"
        cells.append(steps if m.training.seconds is None else f"{steps}\n({style.seconds(m.training.seconds)})")
    return cells
