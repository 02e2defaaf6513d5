"""report.csv: one row per measurement with every figure, units in the header.

Text that a spreadsheet would run as a formula is made plain with an apostrophe (OWASP's advice on CSV injection).
"""

import csv
import io
from typing import Any

from masters_edge.benchmarks.report import gather
from masters_edge.benchmarks.report.entry import Entry
from masters_edge.benchmarks.report.gather import Gathered
from masters_edge.benchmarks.results import STAGES, Latency

_UNITS = {"decode_tokens_per_s": "tokens/s"}
_RUNS_AS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|")
Cell = str | int | float | None


def plain(text: str) -> str:
    """`text` as a cell that no spreadsheet runs."""
    return f"'{text}" if text.lstrip(" ").startswith(_RUNS_AS_FORMULA) or text.startswith(_RUNS_AS_FORMULA) else text


def render(found: Gathered) -> str:
    rows = [_row(entry) for entry in found.entries]
    header = dict.fromkeys(key for row in rows for key in row)
    stream = io.StringIO()
    writer = csv.writer(stream)  # RFC 4180: CRLF between rows, so that both characters are quoted inside cells
    writer.writerow([plain(key) for key in header])
    for row in rows:
        writer.writerow([_shown(row.get(key)) for key in header])
    return stream.getvalue()


def _shown(cell: Cell) -> Cell:
    if isinstance(cell, float):
        return float(f"{cell:.7g}")
    return plain(cell) if isinstance(cell, str) else cell


def _row(entry: Entry) -> dict[str, Cell]:
    m = entry.m
    device, conditions = m.device, m.conditions
    row: dict[str, Cell] = {
        "number": entry.number, "name": m.name, "role": m.role, "kind": m.kind, "target": m.target,
        "runtime": m.runtime, "scheme": m.scheme, "measured on": gather.label(device), "device kind": device.kind,
        "device address": device.address, "device name": device.name, "device model": device.model, "cpu": device.cpu,
        "cores": device.cores, "logical cores": device.logical_cores, "ram (MiB)": device.ram_mib, "os": device.os,
        "architecture": device.architecture, "python": device.python, "threads": m.threads,
        "suite": m.suite.name if m.suite else None, "metric": m.suite.metric if m.suite else None,
        "suite sha256": m.suite.sha256 if m.suite else None,
    }  # fmt: skip
    row |= _share("accuracy", m.accuracy, "right") | _share("agreement with PyTorch", m.agreement, "equal")
    row |= _latency("", m.latency) | {"answers timed": m.latency_questions, "answered in batches": int(m.batched)}
    row |= {
        "file size (bytes)": m.size_bytes, "parameters": m.parameters, "peak memory (MiB)": m.peak_rss_mib,
        "page memory (MiB)": m.page_memory_mib, "page out of sight (s)": conditions.hidden_s,
        "equal to the Python runtime": m.python_runtime.equal if m.python_runtime else None,
        "compared with the Python runtime": m.python_runtime.asked if m.python_runtime else None,
        "battery before (%)": conditions.battery_before, "battery after (%)": conditions.battery_after,
        "user agent": device.browser.user_agent if device.browser else None,
        "webgpu adapter": device.browser.webgpu if device.browser else None,
        "energy of an answer (J)": m.energy.joules_per_answer if m.energy else None,
        "power (W)": m.energy.watts if m.energy else None, "idle power (W)": m.energy.idle_watts if m.energy else None,
        "energy source": m.energy.source if m.energy else None,
        "load before": conditions.load_before, "cores taken by others": conditions.other_cores,
        "temperature before (C)": conditions.celsius_before,
        "temperature after (C)": conditions.celsius_after, "clock before (MHz)": conditions.mhz_before,
        "clock after (MHz)": conditions.mhz_after, "governor": conditions.governor,
        "sustained loop (s)": m.sustained.seconds if m.sustained else None,
        "speed left after the loop (%)": 100 * m.sustained.speed_left if m.sustained else None,
    }  # fmt: skip
    for case in m.cases:
        title = f"case {case.name}"
        row |= {
            f"{title} prompt (tokens)": case.prompt_tokens, f"{title} image (tokens)": case.image_tokens,
            f"{title} skipped": case.skipped,
        }  # fmt: skip
        if case.latency is not None:
            row |= _latency(f"{title} ", case.latency)
    row |= {
        "training steps": m.training.steps, "training time (s)": m.training.seconds, "path": m.path, "sha256": m.sha256,
        "versions": ", ".join(f"{package} {version}" for package, version in m.versions.items()),
        "not measured": " ".join(m.unmeasured), "started": m.started.isoformat(), "ended": m.ended.isoformat(),
        "results folder": str(entry.folder),
    }  # fmt: skip
    return row


def _share(title: str, found: Any, counted: str) -> dict[str, Cell]:
    """An `Accuracy` or `Agreement`; the columns are there where it is None too."""
    read = {f"{title} (%)": "per_cent", f"{title} low (%)": "low", f"{title} high (%)": "high"}
    read |= {f"{counted} answers": counted, f"{title} questions": "asked"}
    return {column: getattr(found, field) if found is not None else None for column, field in read.items()}


def _latency(before: str, latency: Latency) -> dict[str, Cell]:
    row: dict[str, Cell] = {}
    for name in (*STAGES, "cold_start_ms"):
        stage = getattr(latency, name)
        unit = _UNITS.get(name, "ms")
        title = before + name.removesuffix("_ms").removesuffix("_tokens_per_s").replace("_", " ").replace(
            "total", "answer"
        )
        for figure in ("median", "p90", "spread"):
            row[f"{title} {figure} ({unit})"] = getattr(stage, figure) if stage is not None else None
        row[f"{title} n"] = stage.n if stage is not None else None
    return row
