"""Metrics of a run as JSON lines.

A resumed run drops the lines behind its checkpoint, so the stream reads as if nothing had happened.
"""

import json
import math
from pathlib import Path
from typing import Any

from masters_edge.common.files import json_of, write_text


class MetricsLog:
    """`metrics.jsonl`: append a line, drop lines behind a step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self, phase: int | None = None) -> list[dict[str, Any]]:
        """All whole lines, or those of a phase; what a kill tore or somebody else wrote there is left out."""
        found = []
        if self.path.exists():
            for text in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError):
                    continue
                if isinstance(line, dict) and (phase is None or line.get("phase") == phase):
                    found.append(line)
        return found

    def keep(self, phase: int, step: int) -> None:
        """Drop what lies behind `step` of `phase` and in later phases."""
        kept = [line for line in self.lines() if _place(line) <= (phase, step)]
        write_text(self.path, "".join(json_of(line) + "\n" for line in kept))

    def append(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json_of(line) + "\n")

    def seconds(self, phase: int) -> float:
        """Training seconds that the phase's last line has behind it."""
        return max((s for line in self.lines(phase) if isinstance(s := line.get("seconds"), (int, float))), default=0.0)


def _place(line: dict[str, Any]) -> tuple[float, float]:
    """Phase and step of a line; behind all others where it has none."""
    phase, step = line.get("phase"), line.get("step")
    return (phase, step) if isinstance(phase, int) and isinstance(step, int) else (math.inf, math.inf)
