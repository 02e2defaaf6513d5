"""The table that a preview ends with: each bundle's size and memory, and what an answer takes in each case."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from masters_edge.benchmarks.results import Case, Measurement, Stage


def table(measurements: Sequence[Measurement]) -> Table:
    """A row for each bundle and case; medians, – where the device can't tell. It fits 80 columns."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("bundle", overflow="fold", min_width=9)
    grid.add_column("file\nMB", justify="right", no_wrap=True)
    grid.add_column("peak\nMiB", justify="right", no_wrap=True)
    grid.add_column("picture", no_wrap=True)
    for heading in ("prompt\ntokens", "first\ntoken", "tokens\n/s", "whole\nanswer"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for found in measurements:
        head = [
            f"{found.target} {found.scheme}\n{found.runtime}",
            _round(found.size_bytes / 1e6),
            "–" if found.peak_rss_mib is None else _round(found.peak_rss_mib),
        ]
        for index, case in enumerate(found.cases):
            last = index == len(found.cases) - 1
            cells = [*(head if index == 0 else [""] * 3), *_case(case)]
            grid.add_row(*(Text(cell) for cell in cells), end_section=last)
        if not found.cases:
            grid.add_row(*(Text(cell) for cell in head), end_section=True)
    return grid


def _case(case: Case) -> list[str]:
    size = f"{case.image_width}x{case.image_height}"
    prompt = "–" if case.prompt_tokens is None else str(case.prompt_tokens)
    if case.latency is None:
        return [size, prompt, "–", "–", "–"]
    latency = case.latency
    rate = "–" if latency.decode_tokens_per_s is None else _round(latency.decode_tokens_per_s.median)
    return [size, prompt, _time(latency.ttft_ms), rate, _time(latency.total_ms)]


def _round(value: float) -> str:
    """Three digits at least, and whole numbers in full."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _time(stage: Stage | None) -> str:
    if stage is None:
        return "–"
    return f"{_round(stage.median)} ms" if stage.median < 10_000 else f"{stage.median / 1000:.1f} s"
