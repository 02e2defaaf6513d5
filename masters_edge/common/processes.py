"""The processes of one run (`accelerate launch`, torchrun), or the only one: who am I, who writes, what is the mean."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")

# One process may check pictures or gather norms alone while the others wait; one that died is the launcher's to see.
PATIENCE = timedelta(days=7)

# Seconds between the first process's sentence and its end, in which others that stumble over the same thing keep quiet.
# Its end makes the launcher end them, within a tenth of a second.
_LINGERS = 2.0


def on_cpu() -> bool:
    """Whether the processes compute on the CPU: told so (ACCELERATE_USE_CPU), or there is nothing else."""
    import torch
    from accelerate.utils import parse_flag_from_env

    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def state() -> Any:
    """Accelerate's PartialState: starts the process group where a launcher asked for one."""
    from accelerate import PartialState

    # Without `cpu`, accelerate takes processes that find no accelerator for one process each.
    return PartialState(cpu=on_cpu(), timeout=PATIENCE)


def leave() -> None:
    """Take leave of the other processes, at the end of a command."""
    state().destroy_process_group()


@contextlib.contextmanager
def first_to_fail() -> Iterator[bool]:
    """Whether this process is to say what went wrong: of those that one launcher started, the first that comes here."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    from filelock import FileLock, Timeout

    lock = FileLock(Path(tempfile.gettempdir()) / f"masters-edge-{os.getppid()}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    except OSError:  # nobody can write there: better said twice than not at all
        yield True
        return
    yield True
    time.sleep(_LINGERS)
    with contextlib.suppress(OSError):
        Path(lock.lock_file).unlink()


def share(items: Sequence[Item]) -> Sequence[Item]:
    """This process's part of the items: every n-th of n processes."""
    here = state()
    return items[here.process_index :: here.num_processes]


def mean(numbers: Iterable[float]) -> list[float]:
    """Each number's mean over the processes, the same in all of them."""
    import torch
    from accelerate.utils import reduce

    here = state()
    values = torch.tensor(list(numbers), dtype=torch.float64, device=here.device)
    if here.num_processes == 1 or not len(values):
        return values.tolist()
    return reduce(values, "mean").tolist()
