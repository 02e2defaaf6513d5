"""Which layer is wrong? Asked only when a part is past tolerance, so it may cost a few more exports.

The part is exported again with fewer and fewer of its layers, and compared with PyTorch's own shortened model: the
smallest depth that fails ends with the layer that is wrong. That needs nothing of a target but that it can export.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from masters_edge.export.student import LoadedStudent

# Exports the (shortened) student into a folder; the part's relative error on one sample.
Measure = Callable[[LoadedStudent, Path], float]


def first_wrong(student: LoadedStudent, where: str, measure: Measure, tolerance: float) -> str:
    """Words for a sentence: the layer of the ModuleList at `where` with which the error comes, found by bisection."""
    total = len(student.model.get_submodule(where))
    passes, fails = 0, total
    while fails - passes > 1:
        depth = (passes + fails) // 2
        with shortened(student, where, depth), tempfile.TemporaryDirectory(prefix="masters-edge-") as folder:
            if measure(student, Path(folder)) <= tolerance:
                passes = depth
            else:
                fails = depth
    name = f"{where}.{fails - 1}"
    if fails == 1:
        return f"{name}, or what comes before or after the layers"
    return f"{name}, or what comes after the layers" if fails == total else name


@contextmanager
def shortened(student: LoadedStudent, where: str, depth: int) -> Iterator[None]:
    """The student with only the first `depth` layers of the ModuleList at `where`, its config saying so too."""
    parent, _, name = where.rpartition(".")
    owner: Any = student.model.get_submodule(parent)
    layers, config = getattr(owner, name), owner.config
    counts = [field for field in ("num_hidden_layers", "depth") if getattr(config, field, None) == len(layers)]
    setattr(owner, name, nn.ModuleList(layers[:depth]))
    for field in counts:
        setattr(config, field, depth)
    try:
        yield
    finally:
        setattr(owner, name, layers)
        for field in counts:
            setattr(config, field, len(layers))
