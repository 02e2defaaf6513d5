"""What a measurement says while it runs, and a terminal bar that shows it with the time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@dataclass(frozen=True)
class Step:
    """`done` of `total` of one phase of one subject: cold starts ("start"), questions ("warm-up", "latency",
    "accuracy"), "cases", seconds ("sustained"), or what a device counts ("copy").

    `right`: the score so far, where there is one.
    """

    subject: str
    phase: str
    done: float
    total: float
    right: float | None = None


OnProgress = Callable[[Step], None]


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[OnProgress]:
    """A bar per subject; yields the callback that `bench(on_progress=...)` takes."""
    columns = (
        TextColumn("{task.fields[subject]}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, tuple[str, TaskID]] = {}

        def show(step: Step) -> None:
            # Latency and accuracy share one count of questions; the other phases have counts of their own.
            series = "questions" if step.phase in ("latency", "accuracy") else step.phase
            detail = step.phase
            if step.right is not None and step.done:
                detail += f", {100 * step.right / step.done:.1f}% right"
            known = tasks.get(step.subject)
            if known is None:
                task = bar.add_task("", subject=step.subject, detail=detail, total=step.total)
            else:
                task = known[1]
                if known[0] != series:
                    bar.reset(task, total=step.total)
            tasks[step.subject] = (series, task)
            bar.update(task, completed=step.done, total=step.total, detail=detail)

        yield show
