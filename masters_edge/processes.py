"""The processes of one run (`accelerate launch`, torchrun), or the only one: who am I, who writes, wait for each other."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")


def state() -> Any:
    """Accelerate's PartialState: starts the process group where a launcher asked for one."""
    from accelerate import PartialState

    return PartialState()


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
