"""Formats a student can be lowered to: one file each, found by its name; a new one touches no other file.

A target's module has
- `BACKEND`: the runtime backend that proves it here, and `VERSIONS`: libraries to note in the manifest;
- `SCHEMES`: names of the quantization schemes it can lower;
- `write(lowering) -> dict`: lower every part at exact arithmetic, write graphs and settings; returns each part's file;
- `ship(lowering, graphs) -> bool`: switch the files to the settings the bundle ships with; False where those are
  the exact ones (what a runtime chooses when it loads a file, its backend does by `exact`);
- `integers(folder, graphs)`: read the finished files again: each quantized parameter's name, its integers int8
  [out, in] and its scales float32 [out, groups], which must be torchao's bit for bit,

and may have
- `unsupported(student) -> str | None`, where some family can't go there: one sentence that says why;
- `SHIPS_FASTER = True`, where the backend's `exact` alone parts exact from shipping arithmetic;
- `open_backend(folder, graphs, threads, exact)`, where the runtime can't run here and something stands in for it;
- `RUNTIMES` (model type -> words) for the model card: which other runtimes load the bundle as it is;
- `NOTES` for the manifest: what a reader must know of every bundle.

No target imports another; what two share lies in `export/` (`onnx_graphs.py`). Nothing heavy is imported here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from masters_edge.export.graphs import Part
    from masters_edge.export.quantize.weights import Weights
    from masters_edge.export.student import LoadedStudent
    from masters_edge.runtime.contained import Contained


@dataclass
class Lowering:
    """One export: the student with its quantized weights' meaning in place, its parts, and the folder to fill.

    `on_part` hears how many parts are written. `contained`: the process in which the target's runtime proves the files.
    """

    student: "LoadedStudent"
    weights: "Weights"
    parts: "list[Part]"
    folder: Path
    on_part: Callable[[int], None] = lambda done: None
    contained: "Contained | None" = None
