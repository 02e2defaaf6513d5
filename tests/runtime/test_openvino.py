"""The OpenVINO backend: torch-free, no telemetry, one answer at a time, exact where it is asked to be."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from masters_edge.common.errors import UserError
from masters_edge.runtime import Student
from masters_edge.runtime.backends import openvino as backend
from tests import tiny
from tests.export import bundles

GRAPHS = {
    "vision_encoder": "openvino_vision_embeddings_model.xml",
    "embed_tokens": "openvino_text_embeddings_model.xml",
    "decoder": "openvino_language_model.xml",
}


@pytest.fixture(scope="module")
def folder() -> Path:
    return bundles.exported("smolvlm", "int4", True, "openvino")


def test_answers_without_torch_and_without_telemetry(folder: Path, tmp_path: Path) -> None:
    tiny.picture().save(tmp_path / "p.png")
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("torch", "transformers", "onnx", "onnxruntime")))  # importing one now fails
from pathlib import Path
from masters_edge.runtime import Student
student = Student.load(Path({str(folder)!r}), backend="openvino")
print(len(student.answer(Path({str(tmp_path / "p.png")!r}), "what is in this image?").token_ids))
assert sys.modules["openvino_telemetry"] is None
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(run.stdout) > 1 and run.stderr == ""


def test_start_forgets_what_was_said(folder: Path) -> None:
    runner = backend.open_backend(folder, GRAPHS, 1, exact=True)
    first, second = (np.random.default_rng(seed).standard_normal((1, 5, 64), np.float32) for seed in (0, 1))
    positions = np.arange(5)[None]
    alone = runner.forward(second, positions)
    runner.start()
    runner.forward(first, positions)
    behind = runner.forward(second, positions + 5)
    runner.start()
    assert np.array_equal(runner.forward(second, positions), alone)
    assert np.abs(behind - alone).max() > 1e-3


def test_what_was_returned_stays(folder: Path) -> None:
    """The runtime's own memory is written to again at the next step."""
    runner = backend.open_backend(folder, GRAPHS, 1, exact=True)
    embeds = runner.embed(np.array([[5, 6]]))
    logits = runner.forward(embeds, np.arange(2)[None])
    kept = embeds.copy(), logits.copy()
    runner.embed(np.array([[7, 8]]))
    runner.forward(embeds[:, ::-1].copy(), np.arange(2, 4)[None])
    assert np.array_equal(embeds, kept[0]) and np.array_equal(logits, kept[1])


def test_exact_means_float32(folder: Path) -> None:
    def setting(exact: bool, name: str) -> str:
        runner = backend.open_backend(folder, GRAPHS, 1, exact)
        return str(runner._decoder._request.get_compiled_model().get_property(name))

    assert setting(True, "DYNAMIC_QUANTIZATION_GROUP_SIZE") == "0" != setting(False, "DYNAMIC_QUANTIZATION_GROUP_SIZE")
    assert "float32" in setting(True, "INFERENCE_PRECISION_HINT") and "float32" in setting(True, "KV_CACHE_PRECISION")
    assert setting(False, "INFERENCE_NUM_THREADS") == "1" and setting(False, "ENABLE_CPU_PINNING") == "False"


def test_what_can_go_wrong_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / GRAPHS["decoder"]).write_text("<net>")
    with pytest.raises(UserError, match=r"can't load .*openvino_language_model.xml"):
        Student.load(copy, check=False)
    (copy / GRAPHS["decoder"]).unlink()
    with pytest.raises(UserError, match=r"openvino_language_model.xml is missing"):
        Student.load(copy, check=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="pip install openvino"):
        Student.load(copy, check=False)
