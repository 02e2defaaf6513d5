"""From a student folder to a bundle: quantize once, capture each part, lower to a target, prove parity, ship.

    from masters_edge.export import export_student
    export_student(Path("run/student"), target="onnx", scheme="int4", out=Path("bundle"), samples=samples)

Rooms: `quantize/` (schemes and the integer record), `graphs/` (parts of a model family as exported programs),
`targets/` (one file per runtime format), `parity.py` (the gate). Nothing here imports training, and importing this
package loads neither torch nor transformers.
"""

from masters_edge.export.pipeline import export_student, schemes, target_names

__all__ = ["export_student", "schemes", "target_names"]
