"""One row of a report."""

from dataclasses import dataclass
from pathlib import Path

from masters_edge.benchmarks.results import Measurement


@dataclass(frozen=True)
class Entry:
    """A measurement, its number (a name has one number on all devices) and the folder of its results.json."""

    number: int
    name: str
    m: Measurement
    folder: Path
