"""The results as a table for the terminal."""

from rich import box
from rich.table import Table
from rich.text import Text

from masters_edge.benchmarks.report import style
from masters_edge.benchmarks.results import Results


def table(results: Results) -> Table:
    """Per subject: accuracy with its interval, latency of a whole answer (median and p90), size, peak memory.

    It fits 80 columns. A column for steps and seconds of training appears where a subject has them, one for the suite
    or the device where there are several.
    """
    rows = results.measurements
    suites = {m.suite.name for m in rows}
    devices = {m.device.name for m in rows}
    trained = any(m.training.steps is not None or m.training.seconds is not None for m in rows)
    grid = Table(
        title=", ".join(sorted(suites)) or None,
        title_style="bold",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    grid.add_column("student", overflow="fold", min_width=8)
    if len(suites) > 1:
        grid.add_column("suite", overflow="fold")
    if len(devices) > 1:
        grid.add_column("device", overflow="fold")
    grid.add_column("accuracy %\n(interval)", justify="right")
    grid.add_column("answer ms\n(p90)", justify="right")
    for heading in ("tokens\n/s", "file\nsize", "peak\nMiB"):
        grid.add_column(heading, justify="right", no_wrap=True)
    if trained:
        grid.add_column("steps\n(trained)", justify="right")
    for m in rows:
        whole = m.latency.total_ms
        cells = [m.name]
        cells += [m.suite.name] if len(suites) > 1 else []
        cells += [m.device.name] if len(devices) > 1 else []
        cells += [
            f"{style.per_cent(m)}\n({m.accuracy.low:.1f}–{m.accuracy.high:.1f})",
            "–" if whole is None else f"{style.number(whole.median)}\n({style.number(whole.p90)})",
            style.median(m.latency.decode_tokens_per_s),
            style.size(m.size_bytes),
            style.number(m.peak_rss_mib),
        ]
        if trained:
            steps = "–" if m.training.steps is None else f"{m.training.steps:,}"
            cells.append(steps if m.training.seconds is None else f"{steps}\n({style.seconds(m.training.seconds)})")
        # Text, not markup: a name may hold square brackets.
        grid.add_row(*(Text(cell) for cell in cells))
    return grid
