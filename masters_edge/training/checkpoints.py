"""Whole checkpoints, torn ones and damaged ones: what a killed run may go on from.

A checkpoint counts once it is sealed, with the digest of every file; what is about to be loaded is held against them.
"""

import shutil
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from masters_edge.common import processes
from masters_edge.common.display import say
from masters_edge.common.seals import MARK, damage, seal


class MarkComplete(TrainerCallback):
    """Trainer writes a checkpoint file by file; the mark, written when every process is done, tells a whole one."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.compute_steps(args, state.max_steps)  # a checkpoint brings those of the call that wrote it

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        here = processes.state()
        here.wait_for_everyone()
        if here.is_main_process:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        here.wait_for_everyone()


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    return max((path.parent for path in folder.glob(f"checkpoint-*[0-9]/{MARK}")), key=_step, default=None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, the same in every process; torn ones are removed, and damaged ones that are newer,
    which is said."""
    here = processes.state()
    here.wait_for_everyone()
    found = [_newest_whole(folder) if here.is_main_process else None]
    return broadcast_object_list(found)[0]


def _newest_whole(folder: Path) -> Path | None:
    for torn in folder.glob("checkpoint-*"):
        if not (torn / MARK).exists():
            shutil.rmtree(torn)
    lost = False
    while (checkpoint := newest(folder)) and (wrong := damage(checkpoint)):
        say(f"{checkpoint} is damaged ({wrong}) and was removed")
        shutil.rmtree(checkpoint)
        lost = True
    if lost:
        say(f"going on from {checkpoint}" if checkpoint else "no other checkpoint is left: the phase begins anew")
    return checkpoint
