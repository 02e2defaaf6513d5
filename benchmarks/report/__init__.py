"""The report people show: a picture for a slide, a page with every figure and how it came about, a table, a sheet.

In: any set of results.json files, and where there are some the runs they belong to (metrics.jsonl, recipe.yaml).
Out: report.png, report.html, report.md and report.csv. `budget` and `compare` answer questions about the same files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from masters_edge.benchmarks import results as results_file
from masters_edge.benchmarks.report.terminal import table
from masters_edge.common.errors import UserError

__all__ = ["ReportFiles", "report", "table"]


@dataclass(frozen=True)
class ReportFiles:
    """What `report` wrote."""

    png: Path
    html: Path
    md: Path
    csv: Path


def report(results: Path | Sequence[Path], run: Path | None, out: Path) -> ReportFiles:
    """Draw the report into `out`, from one or more results files (or folders that hold one).

    Args:
        run: whose training is shown; None for the run folders that the results files lie in.

    Raises:
        UserError: a results file is missing, damaged, empty or of another version; the run's files are damaged;
            matplotlib isn't installed; `out` can't be written.
    """
    from masters_edge.benchmarks.report import figures, gather, markdown, notes, page, sheet, training

    found = gather.gather([results] if isinstance(results, (str, Path)) else results)
    if run is not None and not run.is_dir():
        raise UserError(f"there is no run folder {run}; give the folder that masters-edge distill wrote")
    runs = [run] if run is not None else list(found.runs)
    (title, rows), *others = gather.by_suite(found.entries).items()
    curve = training.of_run(runs[0]) if len(runs) == 1 else None  # several don't fit a slide
    subtitle = notes.subtitle(rows)
    if others:
        subtitle += f". {len(others)} more suite{'s' * (len(others) > 1)} in report.html"
    title = title[0].upper() + title[1:] if title == gather.PREVIEW else title
    picture = figures.slide(rows, curve, title, subtitle)
    texts = {
        "html": page.render(found, runs, title),
        "md": markdown.render(found, title),
        "csv": sheet.render(found),
    }
    files = ReportFiles(**{kind: Path(out) / f"report.{kind}" for kind in ("png", "html", "md", "csv")})
    results_file.write_atomically(files.png, picture)
    for kind, text in texts.items():
        results_file.write_atomically(getattr(files, kind), text.encode())
    return files
