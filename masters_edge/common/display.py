"""What the terminal shows: progress with time left, one line per measurement, tables. Rich underneath."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment

from masters_edge.common.plain import printable

_FIRST = os.environ.get("RANK", "0") == "0"  # of several processes, one speaks


class _Console(Console):
    """Shows whatever it is given without terminal escapes: much of it was written by strangers."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


# No markup: names of files may look like it. No emoji: rich makes them of the colons in fingerprints and addresses.
console = _Console(markup=False, highlight=False, emoji=False, quiet=not _FIRST)
errors = _Console(stderr=True, markup=False, highlight=False, emoji=False, quiet=not _FIRST)


def say(text: str) -> None:
    console.print(text, markup=False)


def ratio_text(ratio: float) -> str:
    """A mask ratio with two decimals, or with as many as it has: 0.20, 0.0375."""
    return f"{ratio:.2f}" if round(ratio, 2) == ratio else f"{ratio:g}"


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[..., None]]:
    """A bar with time left; call what it yields with `advance` (or `completed=`, `note=`)."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total, note="")

        def update(advance: float = 0, **fields: Any) -> None:
            bar.update(task, advance=advance, **fields)

        yield update


class TrainingScreen:
    """Shows lines of metrics: the loss beside the bar as it goes, a full line with each held-out accuracy."""

    NAMES = {"loss": "loss", "jsd": "JSD", "reward": "reward"}  # what fits 80 columns

    def __init__(self, bar: Callable[..., None]) -> None:
        self.bar = bar
        self.latest: dict[str, Any] = {}

    def __call__(self, line: dict[str, Any]) -> None:
        self.latest |= line
        if "eval_accuracy" not in line:
            self.bar(note=f"loss {line['loss']:.3f}")
            return
        shown = [f"step {line['step']:>5}"]
        if "mask_ratio" in line:
            shown.append(f"mask {ratio_text(line['mask_ratio'])}")
        shown += [f"{title} {self.latest[name]:.3f}" for name, title in self.NAMES.items() if name in self.latest]
        say("  ".join([*shown, f"held-out {line['eval_accuracy']:.1f}%"]))
