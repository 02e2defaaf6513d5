"""A plan, phase by phase, for the screen and as JSON."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masters_edge.plan.disk import PhaseDisk
from masters_edge.plan.memory import Machine, Usage
from masters_edge.plan.rates import Rates
from masters_edge.plan.shapes import Shape
from masters_edge.plan.tokens import Lengths, PhaseTokens

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class PlannedPhase:
    """One phase: memory of one process while it trains, rows of one pass, tokens, FLOPs, disk, seconds by part."""

    tokens: PhaseTokens
    training: Usage
    questions_per_device: int
    passes: int
    flops: dict[str, float]
    disk: PhaseDisk
    seconds: dict[str, float]


@dataclass(frozen=True)
class Plan:
    """The whole plan; `assumed` are the sentences that say what is not known but taken for granted."""

    recipe_path: Path
    machine: Machine
    student: Shape
    teachers: list[Shape]
    trained_parameters: int
    lengths: Lengths
    responses: Usage | None
    phases: list[PlannedPhase]
    free_disk_bytes: int
    run_dir: Path
    rates: Rates | None
    assumed: list[str]
    warnings: list[str]

    @property
    def disk_bytes(self) -> int:
        """Largest amount at one time: all that is kept, and the one checkpoint more while it is written."""
        return sum(p.disk.kept for p in self.phases) + max(p.disk.while_writing for p in self.phases)

    @property
    def seconds(self) -> float:
        """The start and all phases; 0 without a measured rate."""
        return (self.rates.start_s if self.rates else 0.0) + sum(sum(p.seconds.values()) for p in self.phases)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        models = [
            {
                "role": role,
                "name": s.name,
                "config": s.origin,
                "dtype": str(s.dtype).removeprefix("torch."),
                "parameters": {**s.parameters, "total": s.total},
            }
            for role, s in [("student", self.student), *(("teacher", t) for t in self.teachers)]
        ]
        return {
            "schema_version": SCHEMA_VERSION,
            "recipe": str(self.recipe_path),
            "machine": dataclasses.asdict(self.machine),
            "models": models,
            "trained_parameters": self.trained_parameters,
            "lengths_tokens": dataclasses.asdict(self.lengths),
            "responses_memory_bytes": _usage(self.responses) if self.responses else None,
            "phases": [
                {
                    "training_memory_bytes": _usage(p.training),
                    "questions_per_device": p.questions_per_device,
                    "passes": p.passes,
                    "tokens": dataclasses.asdict(p.tokens),
                    "flops": p.flops,
                    "disk_bytes": dataclasses.asdict(p.disk),
                    "seconds": p.seconds,
                }
                for p in self.phases
            ],
            "disk_bytes": self.disk_bytes,
            "free_disk_bytes": self.free_disk_bytes,
            "run_dir": str(self.run_dir),
            "rates": dataclasses.asdict(self.rates) if self.rates else None,
            "assumed": self.assumed,
            "warnings": self.warnings,
        }


def _usage(usage: Usage) -> dict[str, Any]:
    return {"moment": usage.moment, "parts": usage.parts, "total": usage.total, "logits_alive": usage.logits_alive}
