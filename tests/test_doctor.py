"""`doctor` says what is missing and how to get it."""

import importlib.util
import io
import shutil

import pytest
from rich.console import Console

from masters_edge import doctor
from masters_edge.benchmarks.page import assets
from masters_edge.common.errors import UserError
from masters_edge.runtime.contained import Contained


@pytest.fixture(autouse=True)
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runtimes that were tried out, without the processes (tests/runtime/test_contained.py has those)."""
    found: list[str] = []
    monkeypatch.setattr(Contained, "_start", lambda self: None)
    monkeypatch.setattr(Contained, "try_out", lambda self: found.append(self.backend))
    return found


def test_a_runtime_that_dies_is_said_to(monkeypatch: pytest.MonkeyPatch, tried: list[str]) -> None:
    def die(self: Contained) -> None:
        if self.backend == "openvino":
            raise UserError("openvino 1 fails at the smallest thing that it can be asked: SIGILL")
        tried.append(self.backend)

    monkeypatch.setattr(Contained, "try_out", die)
    rows = dict(doctor.findings())
    assert rows["runtime openvino"].startswith("openvino 1 fails at the smallest thing") and "onnxruntime" in tried
    assert rows["runtime openvino"].endswith("use another runtime") and rows["runtime onnxruntime"][0].isdigit()


def test_a_missing_extra_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("torch", "onnx") else found(name))
    screen = io.StringIO()
    Console(file=screen, width=160).print(doctor.table())
    shown = screen.getvalue()
    assert "missing torch: pip install 'masters-edge[distill]'" in shown
    assert "missing onnx: pip install 'masters-edge[onnx]'" in shown
    assert "unknown without torch" in shown and "extra bench          installed" in shown


def test_what_is_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = dict(doctor.findings())
    assert rows["extra distill"].startswith("installed") and rows["runtime onnxruntime"][0].isdigit()
    assert "GiB" in rows["memory"] and rows["GPU"]


def test_measuring_in_browsers_is_said_to_work_or_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(assets, "ready", lambda: True)
    assert "transformers" in dict(doctor.findings())["device browser"]
    monkeypatch.setattr(assets, "ready", lambda: False)
    assert assets.COMMAND in dict(doctor.findings())["device browser"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "segno" else found(name))
    rows = dict(doctor.findings())
    assert "pip install 'masters-edge[browser]'" in rows["device browser"]
    assert rows["extra browser"].startswith("missing segno")


def test_adb_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "install adb" in dict(doctor.findings())["device adb"]
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "adb:SERIAL" in dict(doctor.findings())["device adb"]
