"""From nothing to the first answer: how long a fresh process takes, and what it must not import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.export import bundles

MOST_S = 3  # wall clock; on a quiet machine it is a third of that
BLOCKED = ("torch", "transformers", "safetensors", "datasets", "matplotlib", "pandas")
CODE = """
import json, sys, time
began = time.perf_counter()
from pathlib import Path
from masters_edge.runtime import Student
student = Student.load(Path(sys.argv[1]), threads=1)
answer = student.answer(Path(sys.argv[2]), "what is in this image?")
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "tokens": len(answer.token_ids), "on": student.backend.name,
    "loaded": sorted(name for name in sys.modules if "." not in name)}))
"""
TARGETS = [
    pytest.param("onnx", "fp32", True, "onnxruntime", id="onnx"),
    pytest.param("openvino", "int4", True, "openvino", id="openvino"),
    pytest.param("gguf", "fp32", False, "xllamacpp", id="gguf", marks=pytest.mark.slow),
]


@pytest.mark.wide
@pytest.mark.parametrize(("target", "scheme", "splitting", "package"), TARGETS)
def test_the_first_answer_comes_soon_and_without_torch(
    target: str, scheme: str, splitting: bool, package: str, tmp_path: Path
) -> None:
    pytest.importorskip(package)
    folder = bundles.exported("smolvlm", scheme, splitting, target)
    tiny.picture().save(tmp_path / "p.png")
    command = [sys.executable, "-c", CODE, str(folder), str(tmp_path / "p.png")]
    for _ in range(2):  # the first one may have to find out which runtime is fastest
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    print(f"{target}: first answer after {found['seconds']:.2f} s, on {found['on']}")
    assert found["tokens"] > 0 and found["seconds"] < MOST_S
    assert not set(found["loaded"]) & set(BLOCKED)
