"""Whole checkpoints and torn ones: what a killed run may go on from."""

import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from masters_edge.common import processes

COMPLETE = "complete"  # marks a checkpoint that was written to its end


class MarkComplete(TrainerCallback):
    """Trainer writes a checkpoint file by file; the mark, written when every process is done, tells a whole one."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        here = processes.state()
        here.wait_for_everyone()
        if here.is_main_process:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()
        here.wait_for_everyone()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; torn ones are removed."""
    here = processes.state()
    whole: list[tuple[int, Path]] = []
    here.wait_for_everyone()
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / COMPLETE).exists():
            whole.append((int(checkpoint.name.rpartition("-")[2]), checkpoint))
        elif here.is_main_process:
            shutil.rmtree(checkpoint)
    here.wait_for_everyone()
    return max(whole)[1] if whole else None
