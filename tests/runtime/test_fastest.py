"""`backend: auto` takes what is measured as fastest, keeps the choice, and says what it left out and why."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from masters_edge.bundle import manifest as manifests
from masters_edge.common import cache
from masters_edge.common.errors import UserError
from masters_edge.runtime import Student, backends, fastest, trial
from masters_edge.runtime.backends import WholeQuestion
from tests import tiny
from tests.export import bundles

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def bundle() -> Path:
    return bundles.exported("smolvlm", "fp32", splitting=True)


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASTERS_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fastest, "_child", lambda job: pytest.fail("nothing was to be measured"))
    return tmp_path / "cache"


def told(monkeypatch: pytest.MonkeyPatch, **said: dict) -> list[str]:
    """Let each runtime's process say something made up; which ones were asked."""
    asked: list[str] = []

    def child(job: dict) -> dict:
        asked.append(job["backend"])
        return said[job["backend"]]

    monkeypatch.setattr(fastest, "_child", child)
    return asked


def test_it_measures_both_runtimes_in_processes_of_their_own(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    first = fastest.of_bundle(bundle, 1)
    assert set(first.ms) == {"onnxruntime", "openvino"} and not first.left_out and first.measured_now
    assert first.backend == min(first.ms, key=first.ms.__getitem__)
    assert all(0.1 < ms < 30_000 for ms in first.ms.values())
    assert first.reason.startswith(f"{first.backend}, the fastest here") and "at every start" not in first.reason


@pytest.mark.parametrize("winner", ["onnxruntime", "openvino"])
def test_the_fastest_is_opened_and_remembered(bundle: Path, winner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"onnxruntime": {"ms": 5.0}, "openvino": {"ms": 5.0}} | {winner: {"ms": 4.0}}
    asked = told(monkeypatch, **figures)
    student = Student.load(bundle, threads=1)
    assert student.backend.name == winner and sorted(asked) == ["onnxruntime", "openvino"]
    again = Student.load(bundle, threads=1)
    assert again.backend.name == winner and len(asked) == 2
    assert student.backend.choice.measured_now and not again.backend.choice.measured_now
    assert again.backend.choice.ms == student.backend.choice.ms
    assert Student.load(bundle, threads=1, backend="openvino").backend.choice is None
    Student.load(bundle, threads=2)  # another number of threads is another question
    assert len(asked) == 4


def test_a_changed_bundle_or_runtime_is_measured_again(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = told(monkeypatch, onnxruntime={"ms": 1.0}, openvino={"ms": 2.0})
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    fastest.of_bundle(bundle, 1)
    fastest.of_bundle(copy, 1)
    assert len(asked) == 2  # the same bundle elsewhere
    manifest = manifests.read(copy)
    (copy / "manifest.json").write_text(manifest.model_copy(update={"notes": ["another"]}).model_dump_json())
    fastest.of_bundle(copy, 1)
    assert len(asked) == 4
    monkeypatch.setattr(fastest, "_version", lambda package: "0.0.1")
    fastest.of_bundle(bundle, 1)
    assert len(asked) == 6


@pytest.mark.parametrize("content", ["{", "[]", '{"backend": "openvino"}', '{"backend": 3, "ms": {}, "left_out": {}}'])
def test_a_broken_cache_is_measured_again(
    bundle: Path, kept: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = told(monkeypatch, onnxruntime={"ms": 1.0}, openvino={"ms": 2.0})
    fastest.of_bundle(bundle, 1)
    (kept,) = (kept / "fastest").iterdir()
    assert json.loads(kept.read_text())["ms"] == {"onnxruntime": 1.0, "openvino": 2.0}
    kept.write_text(content)
    assert fastest.of_bundle(bundle, 1).backend == "onnxruntime"
    assert len(asked) == 4
    assert not fastest.of_bundle(bundle, 1).measured_now  # written anew


def test_a_cache_that_can_not_be_written_is_said(bundle: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = told(monkeypatch, onnxruntime={"ms": 3.0}, openvino={"ms": 2.0})
    kept.write_text("a file where the folder should be")
    for _ in range(2):
        choice = fastest.of_bundle(bundle, 1)
        assert choice.backend == "openvino" and "measured at every start" in choice.reason
    assert len(asked) == 4


def test_what_fails_is_left_out_with_its_reason(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, onnxruntime={"ms": 3.0}, openvino={"error": "OpenVINO can't load it"})
    choice = fastest.of_bundle(bundle, 1)
    assert choice.backend == "onnxruntime" and "openvino was left out: OpenVINO can't load it" in choice.reason
    told(monkeypatch, onnxruntime={"error": "one"}, openvino={"error": "two"})
    with pytest.raises(UserError, match="one; two"):
        fastest.of_bundle(bundle, 3)


def test_the_picture_leaves_room_for_the_answer(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Qwen-VL has as many tokens as the picture has pixels for."""
    graphs = manifests.read(bundle).graphs
    asked: list[int] = []
    whole = Student.ask

    def ask(student: Student, image: Image.Image, question: str) -> WholeQuestion:
        asked.append(image.width)
        found = whole(student, image, question)
        return found if image.width < 200 else replace(found, input_ids=[0] * 500)

    monkeypatch.setattr(Student, "ask", ask)
    assert trial.measure(str(bundle), graphs, "onnx", "onnxruntime", 1, False, 0.0)["ms"] > 0
    assert asked[:3] == [448, 224, 112]


def test_a_process_that_fails_says_why(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    graphs = manifests.read(copy).graphs
    (copy / graphs["decoder"]).write_bytes(b"no graph")
    job = dict(folder=str(copy), graphs=graphs, target="onnx", threads=1, exact=False, budget_s=0.0)
    assert "ONNX Runtime can't load" in fastest._child({**job, "backend": "onnxruntime"})["error"]
    assert "OpenVINO can't load" in fastest._child({**job, "backend": "openvino"})["error"]
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert "status 1" in fastest._child({**job, "backend": "openvino"})["died"]
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    assert "could be started" in fastest._child({**job, "backend": "openvino"})["error"]


def test_where_only_one_is_installed_it_is_tried_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    asked = told(monkeypatch, onnxruntime={"ms": 1.0})
    for _ in range(2):
        choice = fastest.of_bundle(bundle, 1)
        assert choice.backend == "onnxruntime" and not choice.ms and "only runtime installed" in choice.reason
        assert not choice.measured_now
    assert asked == ["onnxruntime"]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="pip install onnxruntime"):
        fastest.of_bundle(bundle, 1)


def test_a_setting_that_a_runtime_dies_of_is_passed_over(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = {"died": "its process was ended by SIGFPE"}
    figures = {"onnxruntime": {"ms": 3.0}, "openvino": dead, "openvino:f32": {"ms": 2.0}}
    asked = told(monkeypatch, **figures)
    for _ in range(2):  # and it is kept
        choice = fastest.of_bundle(bundle, 1)
        assert choice.backend == "openvino:f32" and not choice.left_out
        why = "at the settings that ship: its process was ended by SIGFPE; so openvino:f32 was taken"
        assert re.search(rf"; openvino 2\S+ fails {why}", choice.reason)
        assert Student.load(bundle, threads=1).backend.name == "openvino:f32"
    assert asked == ["onnxruntime", "openvino", "openvino:f32"]
    told(monkeypatch, **figures | {"openvino:f32": dead})
    choice = fastest.of_bundle(bundle, 2)
    assert choice.backend == "onnxruntime" and "fails at the setting f32: its process" in choice.left_out["openvino"]


def test_a_lone_runtime_that_dies_is_a_sentence(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    told(monkeypatch, onnxruntime={"died": "its process was ended by SIGILL"})
    with pytest.raises(UserError, match=r"onnxruntime 1\S+ fails at the settings that ship: .* SIGILL"):
        Student.load(bundle, threads=1)


def test_what_the_export_found_out_is_not_tried_again(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fastest.proven("onnx", bundle, "onnxruntime", None, 1)
    asked = told(monkeypatch, onnxruntime={"ms": 3.0}, openvino={"ms": 2.0})
    assert fastest.of_bundle(bundle, 1).backend == "openvino" and len(asked) == 2  # two were to be compared
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    fastest.proven("onnx", bundle, "openvino:f32", "it died", 1)
    choice = fastest.of_bundle(bundle, 1)
    assert (choice.backend, choice.died, len(asked)) == ("openvino:f32", "it died", 2)


def test_a_backend_that_can_not_run_the_target_is_refused(bundle: Path) -> None:
    with pytest.raises(UserError, match="can't run on backend 'llamacpp'; use one of: auto, onnxruntime, openvino"):
        Student.load(bundle, backend="llamacpp")
    assert set(backends.modules()) == set(backends.names())


def test_where_the_choice_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MASTERS_EDGE_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the XDG specification says to ignore
    assert cache.folder() == tmp_path / ".cache" / "masters-edge"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.folder() == tmp_path / "x" / "masters-edge"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache.folder() == tmp_path / "Library" / "Caches" / "masters-edge"


def test_ask_says_which_runtime_answered(bundle: Path, tmp_path: Path) -> None:
    tiny.picture().save(tmp_path / "p.png")
    command = [sys.executable, "-m", "masters_edge", "ask", str(bundle), str(tmp_path / "p.png"), "what?"]
    run = subprocess.run([*command, "--backend", "openvino"], capture_output=True, text=True, check=True)
    assert "on openvino" in run.stdout and "measured just now" not in run.stdout and run.stderr == ""
