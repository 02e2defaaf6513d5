"""Metrics of a phase while it trains: JSON lines, TensorBoard events and a line on the screen, from one place."""

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from masters_edge.common import processes
from masters_edge.common.display import say
from masters_edge.recipe.schedule import Stage
from masters_edge.run.metrics import MetricsLog
from masters_edge.training.trainer import PhaseTrainer

STILL = 5  # lines of metrics with one loss, until it is said


class Reporter(TrainerCallback):
    """Every few steps: means of what the trainer measured, the mask ratio, and the held-out accuracy."""

    def __init__(
        self,
        log: MetricsLog,
        trainer: PhaseTrainer,
        number: int,
        stages: list[Stage],
        evaluate: Callable[[], float] | None,
        on_line: Callable[[dict[str, Any]], None],
        on_step: Callable[[int], None],
    ) -> None:
        self.log, self.trainer, self.number, self.stages = log, trainer, number, stages
        self.evaluate, self.on_line, self.on_step = evaluate, on_line, on_step
        self.before = log.seconds(number)
        self.losses = [line["loss"] for line in log.lines(number) if "loss" in line]
        self.started = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = time.monotonic()
        self.on_step(state.global_step)
        if state.global_step == 0 and self.evaluate:
            self._write(0, {"eval_accuracy": self.evaluate()})

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step, train = state.global_step, self.trainer.recipe.train
        self.on_step(step)
        last = step == self.trainer.phase.steps
        if step % train.log_every == 0 or last:
            measured = self.trainer.take_measured()
            self._write(step, {**measured, "learning_rate": self.trainer._get_learning_rate()})
            self._say_if_still(measured["loss"], step, last)
        if self.evaluate and (step % train.eval_every == 0 or last):
            self._write(step, {"eval_accuracy": self.evaluate()})

    def _say_if_still(self, loss: float, step: int, last: bool) -> None:
        """Say it once when the loss has been the very same number all along: batches differ, so it never should."""
        self.losses.append(loss)
        if len({*self.losses}) == 1 and (len(self.losses) == STILL or last and 1 < len(self.losses) < STILL):
            say(
                f"the loss hasn't moved: it is {loss:g} in all {len(self.losses)} lines of metrics up to step {step}; "
                "nothing is learned: look at train.learning_rate, train.freeze, and the share of groups without "
                "advantage"
            )

    def _write(self, step: int, values: dict[str, float]) -> None:
        stage = next((s for s in self.stages if s.first < step <= s.last), self.stages[0] if self.stages else None)
        line: dict[str, Any] = {"phase": self.number, "objective": self.trainer.phase.objective, "step": step}
        if stage is not None:
            line |= {"stage": stage.index, "teacher": stage.teacher, "mask_ratio": stage.ratio}
        line |= values | {"seconds": round(self.before + time.monotonic() - self.started, 3)}
        if processes.state().is_main_process:
            self.log.append(line)
        self.on_line(line)
        numbers = {name: value for name, value in line.items() if isinstance(value, float)}
        self.trainer.callback_handler.on_log(self.trainer.args, self.trainer.state, self.trainer.control, numbers)
