"""`generate --join`: help to fill a run folder that another command is filling.

In: a run folder that another `generate` or `distill` made. The shards are shared by their locks (`responses.shards`),
so all that is left to settle here is who measures what the masks follow from: whoever holds the run's lock. A joiner
takes it for that alone, and only where the command that held it has gone.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from masters_edge.common import processes
from masters_edge.common.display import say
from masters_edge.common.errors import UserError
from masters_edge.common.files import read_json
from masters_edge.recipe.schema import Mask
from masters_edge.run import folder as runs

_PAUSE = 0.5  # seconds between two looks at what the other command measures


def require_run(folder: Path) -> None:
    """Raises:
    UserError: nobody has begun this run.
    """
    if not (folder / "run.json").exists():
        raise UserError(
            f"--join helps with a run that another masters-edge command has begun, and {folder} has no run.json; start "
            "the first command without --join, or set run_dir to its folder"
        )


@contextlib.contextmanager
def masks_turn(folder: Path, mask: Mask, teachers: int) -> Iterator[None]:
    """Entered when the activation norms and masks of all `teachers` are in the run's `folder`, or when this command
    holds the run's lock and may measure what is missing."""
    here = processes.state()
    with contextlib.ExitStack() as held:
        told = False
        while here.is_main_process and not _measured(folder, mask, teachers):
            try:
                held.enter_context(runs.lock(folder))
                break
            except UserError:
                if not told:
                    say("waiting for the masks, which the other command measures")
                told = True
                time.sleep(_PAUSE)
        here.wait_for_everyone()
        yield


def _measured(folder: Path, mask: Mask, teachers: int) -> bool:
    from masters_edge.teacher import ladder, norms

    if mask.score == "activation" and not all(norms.path(folder, t).exists() for t in range(teachers)):
        return False
    if mask.r_max != "auto":
        return True
    try:
        return len(read_json(folder / ladder.FILE)["teachers"]) >= teachers
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):
        return True  # broken: reading it says so
