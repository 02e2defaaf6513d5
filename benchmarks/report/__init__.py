"""The report people show: report.png for a slide, report.html with every figure and how it came about, and a table.

In: results.json, and where there is one the run's folder (metrics.jsonl, recipe.yaml). Out: the two files.
"""

from dataclasses import dataclass
from pathlib import Path

from masters_edge.benchmarks import results as results_file
from masters_edge.benchmarks.report.terminal import table
from masters_edge.benchmarks.results import Device
from masters_edge.errors import UserError

__all__ = ["ReportFiles", "report", "table"]


@dataclass(frozen=True)
class ReportFiles:
    """What `report` wrote."""

    png: Path
    html: Path


def report(results: Path, run: Path | None, out: Path) -> ReportFiles:
    """Draw `out`/report.png and `out`/report.html from a results.json and, for the training plot, a run's folder.

    Raises:
        UserError: results.json is missing, damaged, empty or of another version; the run's files are damaged;
            matplotlib isn't installed; `out` can't be written.
    """
    from masters_edge.benchmarks.report import figures, page, training

    measured = results_file.read(results)
    if not measured.measurements:
        raise UserError(f"{results} holds no measurement yet; make one with: masters-edge bench")
    if run is not None and not run.is_dir():
        raise UserError(f"there is no run folder {run}; give the folder that masters-edge distill wrote")
    metrics = run / "metrics.jsonl" if run is not None else None
    curve = training.read(metrics) if metrics is not None and metrics.is_file() else None
    (name, rows), *others = page.by_suite(measured.measurements).items()
    asked = rows[0].accuracy.asked
    title = f"{name}: {asked:,} questions" if f"{asked:,} questions" not in name else name
    machines = dict.fromkeys(f"{_machine(m.device)}, {m.threads} thread{'s' * (m.threads > 1)}" for m in rows)
    subtitle = f"Measured on {'; '.join(machines)}"
    if others:
        subtitle += f". {len(others)} more suite{'s' * (len(others) > 1)} in report.html"
    files = ReportFiles(png=Path(out) / "report.png", html=Path(out) / "report.html")
    picture = figures.slide(rows, curve, title, subtitle)
    text = page.render(measured, curve, run, title)
    results_file.write_atomically(files.png, picture)
    results_file.write_atomically(files.html, text.encode())
    return files


def _machine(device: Device) -> str:
    """What was measured on, and that it is a CPU: "Raspberry Pi 5 Model B, CPU ..." or "host CPU AMD EPYC"."""
    return f"{device.model}, CPU {device.cpu}" if device.model else f"host CPU {device.cpu}"
