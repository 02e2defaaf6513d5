"""A runtime in a process of its own answers as it does here; what it dies of, or hangs in, is a sentence."""

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from masters_edge.bundle import manifest as manifests
from masters_edge.common.errors import UserError
from masters_edge.runtime import Student, backends, contained
from masters_edge.runtime.contained import Contained, RuntimeDied
from tests import tiny
from tests.export import bundles

# The other process's OpenVINO does this in place of opening a bundle, unless it is asked for float32.
STAND_IN = """
import os, signal, sys, time
from masters_edge.runtime.backends import openvino

class Fatal(openvino.OpenVino):
    def __init__(self, folder, graphs, threads, exact, setting=""):
        if not exact and setting != "f32":
            {what}
        super().__init__(folder, graphs, threads, exact, setting)

openvino.OpenVino = Fatal
"""
DIES = "os.kill(os.getpid(), signal.SIGFPE)"


def let_openvino(what: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python started from now on has such an OpenVINO."""
    (folder / "sitecustomize.py").write_text(STAND_IN.format(what=what))
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.fixture(scope="module")
def bundle() -> Path:
    return bundles.exported("smolvlm", "fp32", splitting=True)


@pytest.fixture
def openvino() -> Iterator[Contained]:
    pytest.importorskip("openvino")
    with Contained("openvino", "onnx", 1) as process:
        yield process


def test_it_answers_as_it_does_here(bundle: Path) -> None:
    graphs = manifests.read(bundle).graphs
    with Contained("onnxruntime", "onnx", 1) as process:
        remote = process.open(bundle, graphs, exact=True)
        there = Student(bundle, graphs, "onnx", remote, threads=1)
        here = Student(bundle, graphs, "onnx", "onnxruntime", threads=1, exact=True)
        assert there.answer(tiny.picture(), "what?").token_ids == here.answer(tiny.picture(), "what?").token_ids
        assert remote.name == "onnxruntime" and not hasattr(remote, "answer") and not hasattr(remote, "_cache")
        with pytest.raises(RuntimeError, match="in the runtime's own process:\n.*Traceback"):
            remote.forward(np.zeros(3), np.zeros(3))
        assert remote.embed(np.array([[1, 2]])).shape == (1, 2, 64)  # it goes on
        with pytest.raises(UserError, match="the file none.onnx is missing"):
            process.open(bundle, graphs | {"decoder": "none.onnx"}, exact=True)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (DIES, f"its process was ended by {signal.SIGFPE.name}"),
        ("print('to stdout'); sys.stderr.write('no such instruction\\n'); os._exit(3)", "failed .no such instruction"),
        ("time.sleep(600)", "it gave no answer in 3 s and was ended"),
    ],
    ids=["signal", "status", "hang"],
)
def test_what_a_runtime_dies_of_is_a_sentence_and_the_next_setting_runs(
    bundle: Path, openvino: Contained, what: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino.close()
    let_openvino(what, tmp_path, monkeypatch)
    monkeypatch.setattr(contained, "LIMIT_S", 3 if "sleep" in what else 300)
    graphs = manifests.read(bundle).graphs
    with pytest.raises(RuntimeDied, match=rf"^openvino 2\S+ fails at the settings that ship: .*{why}"):
        openvino.open(bundle, graphs, exact=False)
    monkeypatch.setattr(contained, "LIMIT_S", 300)
    assert backends.settings("openvino") == ["openvino", "openvino:f32"]
    assert openvino.open(bundle, graphs, exact=False, name="openvino:f32").name == "openvino:f32"


def test_the_smallest_use_of_a_runtime() -> None:
    with Contained("onnxruntime", "onnx", 1) as process:
        process.try_out()


@pytest.mark.wide
@pytest.mark.parametrize("name", [name for name in backends.names() if name != "coremltools"])
def test_the_smallest_use_of_every_runtime(name: str) -> None:
    with Contained(name, "", 1) as process:
        process.try_out()


def test_a_setting_that_there_is_not() -> None:
    with pytest.raises(UserError, match="openvino has no setting 'f16'; it has: f32"):
        backends.module("openvino:f16")
    with pytest.raises(UserError, match="onnxruntime has no setting 'f32'; it has: none"):
        backends.module("onnxruntime:f32")
    with pytest.raises(UserError, match="no backend 'openvin'; use one of: auto, .*openvino"):
        backends.module("openvin")
