"""Run an ablation's jobs: what is done is reused, what fails is kept apart, who shares responses waits for them."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masters_edge.ablate.evaluate import Task, perform, result, stale
from masters_edge.ablate.jobs import Job
from masters_edge.ablate.workers import Workers
from masters_edge.common import cpu
from masters_edge.common.display import errors, progress, say
from masters_edge.common.errors import UserError


@dataclass
class Outcomes:
    """What is known so far: results and failures by the job's name."""

    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def run(
    jobs: Sequence[Job],
    out: Path,
    recipe_path: Path,
    *,
    workers: int,
    questions: int | None,
    on_change: Callable[[Outcomes], None],
) -> Outcomes:
    """Do the jobs that aren't done; `on_change` hears of every one that ends. A failed job leaves the others alone.

    Raises:
        UserError: a folder in `out` holds the result of another recipe.
    """
    outcomes = Outcomes()
    waiting: list[Job] = []
    for job in jobs:
        known = result(job, out, questions)
        if known is None:
            waiting.append(job)
        elif changed := stale(known, job, recipe_path):
            raise UserError(
                f"{job.folder(out)} was made with another {changed} than the one there is now; give a new --out, or "
                f"remove {job.folder(out)} to make it again"
            )
        else:
            outcomes.found[job.name] = known
    if outcomes.found:
        say(f"{len(outcomes.found)} of {len(jobs)} trainings and measurements are done already: reused")
    on_change(outcomes)
    if not waiting:
        return outcomes
    threads = 1 if workers > 1 else None
    count, total = min(workers, len(waiting)), len(waiting)
    _say_cores(count)
    clock = _Clock(total, count)
    made = {job.makes for job in jobs if job.name in outcomes.found}
    with (
        Workers[Task](count, perform, lambda task: task.folder.with_suffix(".log"), threads) as pool,
        progress("ablation", total) as bar,
    ):
        while waiting or pool.running:
            while pool.free and (chosen := choose(waiting, _makers(pool.running) - made, outcomes.found)):
                waiting.remove(chosen)
                pool.start(Task(chosen, recipe_path, chosen.folder(out).resolve(), questions, threads))
            for job in _orphans(waiting, outcomes):
                waiting.remove(job)
                outcomes.failed[job.name] = f"it starts from the student of {job.needs}, which failed"
            if not pool.running:
                continue
            bar(note=f"{clock.left()}: {', '.join(task.job.name[:14] for task in pool.running)}")
            for done in pool.wait(timeout=30):
                job = done.task.job
                clock.ended()
                bar(advance=1)
                if done.failure is None:
                    outcomes.found[job.name] = done.result
                    made.add(job.makes)
                    accuracy = done.result["test"]["accuracy"]
                    say(f"{job.title}, seed {job.seed}: {accuracy:.1f} ({clock.now()})")
                else:
                    outcomes.failed[job.name] = done.failure
                    errors.print(f"{job.title}, seed {job.seed} failed: {done.failure}", markup=False)
                on_change(outcomes)
    return outcomes


def choose(waiting: Sequence[Job], made_now: Collection[str], found: Collection[str]) -> Job | None:
    """The next job: the first whose student to start from is there, and whose responses nobody makes just now; where
    there is no such, one that helps to make them."""
    ready = [job for job in waiting if job.needs is None or job.needs in found]
    free = [job for job in ready if job.makes not in made_now]
    return next(iter(free or ready), None)


def _makers(running: Sequence[Task]) -> set[str]:
    return {task.job.makes for task in running if task.job.makes}


def _orphans(waiting: Sequence[Job], outcomes: Outcomes) -> list[Job]:
    return [job for job in waiting if job.needs in outcomes.failed]


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
