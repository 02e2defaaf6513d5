"""What the terminal shows: progress with time left, one line per measurement, tables. Rich underneath."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    console.print(text, markup=False)


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[..., None]]:
    """A bar with time left; call what it yields with `advance` (or `completed=`, `note=`)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total, note="")

        def update(advance: float = 0, **fields: Any) -> None:
            bar.update(task, advance=advance, **fields)

        yield update


def measurement(line: dict[str, Any]) -> str:
    """A line of metrics for the screen."""
    shown = [f"step {line['step']:>5}"]
    if "mask_ratio" in line:
        shown.append(f"mask {line['mask_ratio']:.2f}")
    names = {"loss": "loss", "jsd": "JSD", "reward": "reward", "r_acc": "R_acc", "kl_reference": "KL"}
    shown += [f"{title} {line[name]:.3f}" for name, title in names.items() if name in line]
    if "eval_accuracy" in line:
        shown.append(f"held-out accuracy {line['eval_accuracy']:.1f}%")
    return "  ".join(shown)
