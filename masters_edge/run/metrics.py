"""Metrics of a run as JSON lines.

A resumed run drops the lines behind its checkpoint, so the stream reads as if nothing had happened.
"""

import json
from pathlib import Path
from typing import Any

from masters_edge.common.files import write_text


class MetricsLog:
    """`metrics.jsonl`: append a line, drop lines behind a step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[dict[str, Any]]:
        """All whole lines; one torn by a kill is left out."""
        found = []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    found.append(json.loads(line))
                except ValueError:
                    continue
        return found

    def keep(self, phase: int, step: int) -> None:
        """Drop what lies behind `step` of `phase` and in later phases."""
        kept = [line for line in self.lines() if (line["phase"], line["step"]) <= (phase, step)]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def append(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def seconds(self, phase: int) -> float:
        """Training seconds that the phase's last line has behind it."""
        return max((line["seconds"] for line in self.lines() if line["phase"] == phase), default=0.0)
