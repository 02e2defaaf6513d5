"""The phases of a run: where each one's files go, and the mark behind the last."""

import time
from dataclasses import dataclass
from pathlib import Path

from masters_edge.common.display import say
from masters_edge.common.files import write_json
from masters_edge.recipe import Phase, Recipe
from masters_edge.run.folder import Run
from masters_edge.run.metrics import MetricsLog


@dataclass(frozen=True)
class PhaseOfRun:
    """One phase of a run, with the recipe as far as it is settled."""

    run: Run
    recipe: Recipe
    number: int

    @property
    def count(self) -> int:
        """Phases of the recipe."""
        return len(self.recipe.train.phases)

    @property
    def phase(self) -> Phase:
        return self.recipe.train.phases[self.number]

    @property
    def folder(self) -> Path:
        return self.run.folder / f"phase-{self.number}-{self.phase.objective}"

    @property
    def out(self) -> Path:
        """Where the phase's student goes."""
        return self.run.student if self.number + 1 == self.count else self.folder / "student"


def finish(run: Run, recipe: Recipe, started: float) -> None:
    """Write down that all phases are done. `started`: when this call began (time.monotonic)."""
    log, phases = MetricsLog(run.metrics), recipe.train.phases
    write_json(
        run.folder / "finished.json",
        {
            "steps": sum(phase.steps for phase in phases),
            "training_seconds": round(sum(log.seconds(n) for n in range(len(phases))), 1),
            "seconds_of_last_call": round(time.monotonic() - started, 1),
            "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    )
    say(f"student: {run.student}")
