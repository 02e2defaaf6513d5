"""Measuring: accuracy of what was built against its latency, on a named machine, into a results.json and a report.

`bench(subjects, suite, settings, out=...)` measures, `masters_edge.benchmarks.report.report(...)` draws. All here but
`peers/pytorch.py` is torch-free, and names are imported on first use, so that a measuring process starts as lean as the
device's own program would.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masters_edge.benchmarks.measure import Settings, Subject, bench
    from masters_edge.benchmarks.progress import progress_bar
    from masters_edge.benchmarks.results import Measurement, Results

__all__ = ["Measurement", "Results", "Settings", "Subject", "bench", "progress_bar"]

_HOME = {
    "bench": "measure",
    "Settings": "measure",
    "Subject": "measure",
    "progress_bar": "progress",
    "Measurement": "results",
    "Results": "results",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
