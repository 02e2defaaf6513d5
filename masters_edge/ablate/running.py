"""Run an ablation's experiments: what is done is reused, what fails is kept apart, who shares responses waits."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masters_edge.ablate.evaluate import Task, perform, result, stale
from masters_edge.ablate.experiments import Experiment
from masters_edge.ablate.workers import Workers
from masters_edge.common import cpu
from masters_edge.common.display import errors, progress, say
from masters_edge.common.errors import UserError


@dataclass
class Outcomes:
    """What is known so far: results and failures by the experiment's name."""

    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def run(
    experiments: Sequence[Experiment],
    out: Path,
    recipe_path: Path,
    *,
    workers: int,
    questions: int | None,
    on_change: Callable[[Outcomes], None],
) -> Outcomes:
    """Do what isn't done; `on_change` hears of every experiment that ends. A failed one leaves the others alone.

    Raises:
        UserError: a folder in `out` holds the result of another recipe.
    """
    outcomes = Outcomes()
    waiting: list[Experiment] = []
    for experiment in experiments:
        known = result(experiment, out, questions)
        if known is None:
            waiting.append(experiment)
        elif changed := stale(known, experiment, recipe_path):
            raise UserError(
                f"{experiment.folder(out)} was made with another {changed} than the one there is now; give a "
                f"new --out, or remove {experiment.folder(out)} to make it again"
            )
        else:
            outcomes.found[experiment.name] = known
    if outcomes.found:
        say(f"{len(outcomes.found)} of {len(experiments)} trainings and measurements are done already: reused")
    on_change(outcomes)
    if not waiting:
        return outcomes
    threads = 1 if workers > 1 else None
    count, total = min(workers, len(waiting)), len(waiting)
    _say_cores(count)
    clock = _Clock(total, count)
    made = {one.makes for one in experiments if one.name in outcomes.found}
    with (
        Workers[Task](count, perform, lambda task: task.folder.with_suffix(".log"), threads) as pool,
        progress("ablation", total) as bar,
    ):
        while waiting or pool.running:
            while pool.free and (chosen := choose(waiting, _makers(pool.running) - made, outcomes.found)):
                waiting.remove(chosen)
                pool.start(Task(chosen, recipe_path, chosen.folder(out).resolve(), questions, threads))
            for experiment in _orphans(waiting, outcomes):
                waiting.remove(experiment)
                outcomes.failed[experiment.name] = f"it starts from the student of {experiment.needs}, which failed"
            if not pool.running:
                continue
            bar(note=f"{clock.left()}: {', '.join(task.experiment.name[:14] for task in pool.running)}")
            for done in pool.wait(timeout=30):
                experiment = done.task.experiment
                clock.ended()
                bar(advance=1)
                if done.failure is None:
                    outcomes.found[experiment.name] = done.result
                    made.add(experiment.makes)
                    accuracy = done.result["test"]["accuracy"]
                    say(f"{experiment.title}, seed {experiment.seed}: {accuracy:.1f} ({clock.now()})")
                else:
                    outcomes.failed[experiment.name] = done.failure
                    errors.print(f"{experiment.title}, seed {experiment.seed} failed: {done.failure}", markup=False)
                on_change(outcomes)
    return outcomes


def choose(waiting: Sequence[Experiment], made_now: Collection[str], found: Collection[str]) -> Experiment | None:
    """The next experiment: the first whose student to start from is there, and whose responses nobody makes just now;
    where there is no such, one that helps to make them."""
    ready = [one for one in waiting if one.needs is None or one.needs in found]
    free = [one for one in ready if one.makes not in made_now]
    return next(iter(free or ready), None)


def _makers(running: Sequence[Task]) -> set[str]:
    return {task.experiment.makes for task in running if task.experiment.makes}


def _orphans(waiting: Sequence[Experiment], outcomes: Outcomes) -> list[Experiment]:
    return [one for one in waiting if one.needs in outcomes.failed]


class _Clock:
    def __init__(self, total: int, workers: int) -> None:
        self.total, self.workers, self.done, self.started = total, workers, 0, time.monotonic()

    def ended(self) -> None:
        self.done += 1

    def left(self) -> str:
        """The time that the rest takes at the pace so far."""
        if not self.done:
            return "?"
        return _duration((time.monotonic() - self.started) / self.done * (self.total - self.done))

    def now(self) -> str:
        return f"{self.done} of {self.total} after {_duration(time.monotonic() - self.started)}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{round(seconds)} s" if minutes < 2 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _say_cores(workers: int) -> None:
    free = max(0, round(cpu.free_cores()))
    if free < workers:
        say(
            f"--jobs {workers}, but {free} of {cpu.logical_cores()} cores are free now: the trainings share them, and "
            "their seconds say little"
        )
