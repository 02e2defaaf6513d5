"""Tiny bundles, each exported once in a test session and shared between tests and processes."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

from masters_edge.bundle import manifest as manifests
from masters_edge.export import export_student
from tests import shared, tiny

QUESTIONS = ["what is in this image?", "is there a triangle?", "what color is the shape?"]


@functools.lru_cache
def root() -> Path:
    """A folder of this process, for what one file's tests share."""
    return Path(tempfile.mkdtemp(prefix="process-", dir=shared.root()))


def student(family: str, splitting: bool = False) -> Path:
    """A tiny student of any family in `tests/tiny.py`; `splitting` is for SmolVLM and Idefics3."""
    return _student(family, splitting)


def exported(family: str, scheme: str, splitting: bool = False, target: str = "onnx") -> Path:
    """A bundle of `student(family, splitting)`, by default for ONNX."""
    return _exported(family, scheme, splitting, target)


def exact(bundle: Path, folder: Path) -> Path:
    """A copy of an ONNX bundle that multiplies in float32 everywhere, as in the parity gate."""
    import onnx

    shutil.copytree(bundle, folder)
    for file in (folder / "onnx").glob("*.onnx"):
        model = onnx.load(file)
        for level in (a for node in model.graph.node for a in node.attribute if a.name == "accuracy_level"):
            level.i = 1
        onnx.save(model, file)
    manifests.write(folder, manifests.read(folder))
    return folder


def progress(folder: Path) -> list[float]:
    """The shares that `on_progress` heard while this bundle was exported."""
    return json.loads(_progress(folder).read_text())


def samples(count: int = 3) -> list:
    sizes = [(32, 32), (70, 51), (20, 90)]
    return [(tiny.picture(*sizes[i % 3], seed=i), QUESTIONS[i % 3]) for i in range(count)]


@functools.lru_cache
def _student(family: str, splitting: bool) -> Path:
    options = {"splitting": True} if splitting else {}
    return shared.once(f"{family}-{splitting}", lambda folder: getattr(tiny, family)(folder, **options))


@functools.lru_cache
def _exported(family: str, scheme: str, splitting: bool, target: str) -> Path:
    name = f"{family}-{splitting}-{target}-{scheme}-bundle"

    def export(out: Path) -> None:
        heard: list[float] = []
        export_student(
            student(family, splitting),
            target=target,
            scheme=scheme,
            out=out,
            samples=samples(),
            on_progress=lambda stage, share: heard.append(share),
        )
        _progress(shared.root() / name).write_text(json.dumps(heard))

    return shared.once(name, export)


def _progress(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.progress")
