"""Metrics of a run as JSON lines, TensorBoard events and a line on the screen, from one place.

A resumed run drops the lines behind its checkpoint, so the stream reads as if nothing had happened.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from masters_edge.common import processes
from masters_edge.common.files import write_text
from masters_edge.recipe import Phase, Recipe
from masters_edge.recipe.schedule import Stage


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


class Reporter(TrainerCallback):
    """Every few steps: means of what the trainer measured, the mask ratio, and the held-out accuracy."""

    def __init__(
        self,
        log: MetricsLog,
        recipe: Recipe,
        number: int,
        phase: Phase,
        stages: list[Stage],
        evaluate: Callable[[], float] | None,
        on_line: Callable[[dict[str, Any]], None],
        on_step: Callable[[int], None],
    ) -> None:
        self.log, self.recipe, self.number, self.phase, self.stages = log, recipe, number, phase, stages
        self.evaluate, self.on_line, self.on_step = evaluate, on_line, on_step
        self.trainer: Any = None  # set once the trainer exists
        self.before = log.seconds(number)
        self.started = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = time.monotonic()
        self.on_step(state.global_step)
        if state.global_step == 0 and self.evaluate:
            self._write(0, {"eval_accuracy": self.evaluate()})

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step, train = state.global_step, self.recipe.train
        self.on_step(step)
        last = step == self.phase.steps
        if step % train.log_every == 0 or last:
            self._write(step, {**self.trainer.take_measured(), "learning_rate": self.trainer._get_learning_rate()})
        if self.evaluate and (step % train.eval_every == 0 or last):
            self._write(step, {"eval_accuracy": self.evaluate()})

    def _write(self, step: int, values: dict[str, float]) -> None:
        stage = next((s for s in self.stages if s.first < step <= s.last), self.stages[0] if self.stages else None)
        line: dict[str, Any] = {"phase": self.number, "objective": self.phase.objective, "step": step}
        if stage is not None:
            line |= {"stage": stage.index, "teacher": stage.teacher, "mask_ratio": stage.ratio}
        line |= values | {"seconds": round(self.before + time.monotonic() - self.started, 3)}
        if processes.state().is_main_process:
            self.log.append(line)
        self.on_line(line)
        numbers = {name: value for name, value in line.items() if isinstance(value, float)}
        self.trainer.callback_handler.on_log(self.trainer.args, self.trainer.state, self.trainer.control, numbers)
