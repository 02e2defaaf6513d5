"""The environment on a board: a real virtual environment, a real pip, a real bundle measured in it. Minutes long."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from masters_edge.benchmarks import Settings, Subject, bench, machine
from masters_edge.benchmarks.devices import Lost, Wanted, _openssh, _replies, ssh
from masters_edge.benchmarks.progress import Step
from masters_edge.benchmarks.suites import Suite
from masters_edge.common.errors import UserError
from tests.benchmarks.sshd import Sshd, needs_sshd
from tests.export import bundles

pytestmark = [needs_sshd, pytest.mark.slow]


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """A board that installs from where this machine does."""
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    made = Sshd(tmp_path / "board", {"PIP_CACHE_DIR": os.path.expanduser("~/.cache/pip")} | pip)
    monkeypatch.setenv(_openssh.CONFIG, str(made.config))
    made.start()
    yield made
    made.close()


def test_installs_once_and_measures_a_real_bundle(sshd: Sshd, suite: Suite, tmp_path: Path) -> None:
    steps: list[Step] = []
    subject = Subject("student fp32", "exported", bundles.exported("smolvlm", "fp32"))
    settings, out = Settings(latency_questions=4, threads=1, cases=False), tmp_path / "results.json"
    there = bench([subject], suite, settings, device=sshd.address, on_progress=steps.append, out=out)
    [measured] = there.measurements
    assert measured.device.kind == "ssh" and measured.runtime == "onnxruntime"
    assert measured.versions == machine.versions(*measured.versions)  # as here, so that figures compare
    assert any(step.phase.startswith("installing") for step in steps)
    environment = sshd.home / "envs"
    [python] = environment.glob("*/bin/python")
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 1

    both = bench([subject], suite, settings, device="local", out=out).measurements
    answers = [(tmp_path / str(m.answers)).read_text() for m in both]
    assert len(answers) == 2 and answers[0] == answers[1]
    assert both[0].device.kind == "ssh" and both[1].device.kind == "local"

    steps.clear()
    again = bench([subject], suite, settings, device=sshd.address, on_progress=steps.append, out=out)
    assert again.measurements == both
    assert [step.phase for step in steps] == ["connecting"]

    ready = next(environment.glob("*/ready.json"))  # another masters-edge on the host: only that is installed anew
    ready.write_text(ready.read_text().replace('"wheel": "', '"wheel": "0'))
    bench([subject], suite, settings, device=sshd.address, on_progress=steps.append, out=out)
    assert any(step.phase.startswith("installing") for step in steps)
    assert len(list(environment.iterdir())) == 1


def test_pip_that_fails_is_quoted(sshd: Sshd) -> None:
    sshd.kill()
    sshd.environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CACHE_DIR": str(sshd.folder / "empty")}
    sshd.start()
    with pytest.raises(UserError) as error, ssh.connect(sshd.address, Wanted(["onnxruntime"])):
        pass
    assert str(error.value).startswith("pip failed on board while installing (No matching distribution found for ")


def test_a_version_that_the_board_cannot_have_is_replaced_and_said(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    real = machine.versions
    monkeypatch.setattr(machine, "versions", lambda *names: real(*names) | {"psutil": "0.0.1"})
    with ssh.connect(sshd.address, Wanted()) as place:
        assert isinstance(place, ssh.Board)
        assert place.notes == ("board has no psutil==0.0.1 to install: it got another version than this machine has",)
        assert place.versions("psutil")["psutil"] != "0.0.1"
        assert place.versions("numpy") == real("numpy")


def test_a_disk_that_fills_up_while_installing(sshd: Sshd) -> None:
    sshd.cache.mkdir()
    size = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(sshd.cache)]
    if subprocess.run(size, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        sentence = "^the disk of board is full.*installing stopped; make room there"
        with pytest.raises(UserError, match=sentence), ssh.connect(sshd.address, Wanted()):
            pass
    finally:
        sshd.kill()
        subprocess.run(["umount", "-l", str(sshd.cache)], check=True)


def test_a_board_that_falls_silent_is_noticed(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not closed, not refused: nothing comes any more. And it lets go of a host that it hasn't heard of."""
    monkeypatch.setattr(ssh, "_install", lambda *_: None)
    monkeypatch.setattr(ssh.Board, "ready", lambda self: None)
    sentence = "^the connection to board was lost while looking around"
    with pytest.raises(Lost, match=sentence), ssh.connect(sshd.address, Wanted()) as place:
        assert isinstance(place, ssh.Board)
        for process in sshd.sessions():
            if "sshd" in process.name():
                process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        place.connection.call("plan", "looking around", _replies.Lacking, folders=[])
    assert time.monotonic() - started < 40
    with ssh.connect(sshd.address, Wanted()):  # waits until the board has given the first one up
        pass
    assert time.monotonic() - started < 80
