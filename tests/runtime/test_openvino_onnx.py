"""ONNX bundles on OpenVINO: at exact settings the same answers and numbers as on ONNX Runtime."""

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino")

import onnx

from masters_edge.bundle import manifest as manifests
from masters_edge.runtime import Student
from tests import tiny
from tests.export import bundles

QUESTION = "is there a triangle?"
SIZES = [(64, 48), (33, 77), (200, 31)]
SLOW = [
    pytest.param(family, scheme, target, id=f"{family}-{target}-{scheme}", marks=pytest.mark.slow)
    for family in tiny.FAMILIES
    for target in ("onnx", "onnx_portable")
    for scheme in ("int4", "int8")
    if (family, scheme, target) != ("smolvlm", "int4", "onnx")
]


def both(folder: Path, copy: Path) -> list[Student]:
    """ONNX Runtime and OpenVINO at exact settings; the graphs' own setting is undone in a copy."""
    shutil.copytree(folder, copy)
    about = manifests.read(copy)
    for file in about.graphs.values():
        model = onnx.load(copy / file)
        for attribute in (a for node in model.graph.node for a in node.attribute if a.name == "accuracy_level"):
            attribute.i = 1
        onnx.save(model, copy / file)
    names = ("onnxruntime", "openvino")
    return [Student(copy, about.graphs, about.target, backend=name, threads=1, exact=True) for name in names]


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and bool(np.abs(found - expected).max() < 1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("family", "scheme", "target"), [("smolvlm", "fp32", "onnx"), *SLOW])
def test_same_answers_as_onnx_runtime(family: str, scheme: str, target: str, tmp_path: Path) -> None:
    splitting = family in ("smolvlm", "idefics3")
    there, here = both(bundles.exported(family, scheme, splitting, target), tmp_path / "copy")
    for size in SIZES:
        picture = tiny.picture(*size, seed=3)
        inputs = here.family.look(picture).inputs
        assert close(here.backend.vision(inputs), there.backend.vision(inputs))
        assert here.answer(picture, QUESTION).token_ids == there.answer(picture, QUESTION).token_ids


def test_the_cache_grows_starts_anew_and_gives_logits_where_asked(tmp_path: Path) -> None:
    there, here = (student.backend for student in both(bundles.exported("smolvlm", "fp32", True), tmp_path / "copy"))
    embeds = np.random.default_rng(0).standard_normal((1, 9, 64), np.float32)
    positions = np.arange(9)[None]
    whole = there.forward(embeds, positions)
    for _ in range(2):
        there.start()
        here.start()
        assert close(here.forward(embeds[:, :5], positions[:, :5]), whole[:, :5])
        assert close(here.forward(embeds[:, 5:8], positions[:, 5:8], last=True), whole[:, 7:8])
        assert close(here.forward(embeds[:, 8:], positions[:, 8:]), whole[:, 8:])
