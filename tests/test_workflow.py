"""`export` of several targets: integers that take long to choose are chosen once, and what keeps them is gone then."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import masters_edge.export
from masters_edge import workflow
from masters_edge.bundle import manifest as manifests


@pytest.mark.parametrize(
    ("targets", "kept"), [(["onnx", "gguf"], [None, "auto", None, "auto"]), (["onnx"], [None] * 2)]
)
def test_integers_are_kept_for_the_next_target(
    targets: list[str], kept: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path | None] = []

    def export_student(student: Path, *, integers_file: Path | None, **_: Any) -> Any:
        asked.append(integers_file)
        if integers_file is not None:
            assert integers_file.exists() == (integers_file in asked[:-1])
            integers_file.touch()
        gate = SimpleNamespace(equal_answers=1, near_ties=[])
        parity = SimpleNamespace(shipped=gate, exact=gate, samples=1, died=None)
        return SimpleNamespace(parity=parity, quantization=SimpleNamespace(notes=[]))

    monkeypatch.setattr(masters_edge.export, "export_student", export_student)
    monkeypatch.setattr(manifests, "read", lambda place: SimpleNamespace(files=[]))
    monkeypatch.setattr(workflow.origin, "of", lambda *_: None)
    student = tmp_path / "student"
    student.mkdir()
    (student / "config.json").write_text("{}")
    workflow.export(student=student, run=None, targets=targets, schemes=["int4", "auto"], out=tmp_path / "out")
    assert [file and file.stem for file in asked] == kept
    assert not any(tmp_path.glob("out/*")) and not any(tmp_path.glob("out/.*"))
