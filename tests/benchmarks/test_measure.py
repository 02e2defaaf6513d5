import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from masters_edge.benchmarks import Settings, Subject, bench, devices, machine, measure, peers, results
from masters_edge.benchmarks.devices.local import Here
from masters_edge.benchmarks.measure import OnNote, Unfinished, seconds_of
from masters_edge.benchmarks.report import answers
from masters_edge.benchmarks.results import Results
from masters_edge.benchmarks.suites import Suite
from masters_edge.common.errors import UserError
from tests.advice import follows, said
from tests.benchmarks import fakes

SETTINGS = Settings(backend="fake", questions=8, latency_questions=4, cases=False, threads=1)


def subjects(folder: Path, *names: str, **behaviour: Any) -> list[Subject]:
    for name in names:
        if not (folder / name).exists():
            fakes.make(folder / name, **behaviour)
    return [Subject(name, "exported", folder / name, "fake") for name in names]


class Runs:
    """Calls bench and remembers which subjects were reused."""

    def __init__(self, suite: Suite, folder: Path) -> None:
        self.suite, self.folder, self.out = suite, folder, folder / "out" / "results.json"
        self.reused: list[str] = []

    def __call__(self, *names: str, device: str = "local", on_note: OnNote | None = None, **settings: Any) -> Results:
        self.reused = []
        return bench(
            subjects(self.folder, *names),
            self.suite,
            replace(SETTINGS, **settings),
            device=device,
            out=self.out,
            on_reused=lambda s, m: self.reused.append(s.name),
            on_note=on_note,
        )


@pytest.fixture
def run(fake_kind: str, suite: Suite, tmp_path: Path) -> Runs:
    # asked.txt is the fake's own log and would change its fingerprint
    return Runs(suite, tmp_path)


@pytest.fixture(autouse=True)
def steady_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "fingerprint", lambda path: (Path(path) / "behaviour.json").read_text().encode().hex())


def test_what_is_unchanged_is_reused_and_said(run: Runs) -> None:
    first = run("a", "b")
    assert [m.name for m in first.measurements] == ["a", "b"] and run.reused == []
    assert run("a", "b") == first and run.reused == ["a", "b"]
    assert results.read(run.out) == first


@pytest.mark.wide
@pytest.mark.parametrize(
    "change",
    [{"questions": 9}, {"latency_questions": 5}, {"cases": True}, {"sustain_s": 0.01}, {"fresh": True}],
    ids=lambda c: next(iter(c)),
)
def test_other_conditions_are_measured_again(run: Runs, change: dict[str, Any]) -> None:
    first = run("a")
    again = run("a", **change)
    assert run.reused == [] and len(again.measurements) == 1
    assert again.measurements[0].started > first.measurements[0].started


@pytest.mark.wide
def test_other_threads_and_runtimes_stand_beside_each_other(run: Runs) -> None:
    run("a")
    run("a", threads=2)
    three = run("b", backend="other")
    assert [(m.name, m.threads, m.runtime, m.backend) for m in three.measurements] == [
        ("a", 1, "fake", "fake"),
        ("a", 2, "fake", "fake"),
        ("b", 1, "other", "other"),
    ]


def test_what_auto_took_is_reused_while_it_has_the_same_to_choose_from(
    run: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run("a", backend="auto")
    assert (first.measurements[0].runtime, first.measurements[0].candidates.keys()) == ("fake", {"numpy"})
    assert run("a", backend="auto") == first and run.reused == ["a"]
    assert run("a", backend="fake") == first and run.reused == ["a"]
    monkeypatch.setattr(fakes, "runtimes", lambda path, backend: ("numpy", "pillow"))
    run("a", backend="auto")
    assert run.reused == []


@pytest.mark.wide
def test_changed_files_machines_and_libraries_are_measured_again(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run("a", "b", "old_numpy")
    assert run("a", "b", "old_numpy").measurements and run.reused == ["a", "b"]
    fakes.make(run.folder / "a", load_s=0)
    run("a", "b")
    assert run.reused == ["b"]
    here = machine.describe()
    monkeypatch.setattr(machine, "describe", lambda: here | {"cpu": "Another CPU"})
    run("a", "b")
    assert run.reused == []


def test_a_reused_measurement_takes_what_the_caller_now_says(run: Runs) -> None:
    run("a")
    subject = Subject("a", "student after", run.folder / "a", "fake", {"steps": 7, "seconds": 3.0})
    again = bench([subject], run.suite, SETTINGS, out=run.out)
    assert (again.measurements[0].role, again.measurements[0].training.steps) == ("student after", 7)


def test_what_was_measured_is_kept_when_the_next_one_fails(run: Runs) -> None:
    fakes.make(run.folder / "bad", die_after=1)
    with pytest.raises(Unfinished, match="^measuring bad stopped: RuntimeError: out of ideas$") as caught:
        run("a", "bad", "c")
    assert [m.name for m in results.read(run.out).measurements] == ["a", "c"]
    assert caught.value.results == results.read(run.out)
    fakes.make(run.folder / "bad")
    assert [m.name for m in run("a", "bad", "c").measurements] == ["a", "c", "bad"] and run.reused == ["a", "c"]


def test_every_failure_is_named(run: Runs) -> None:
    fakes.make(run.folder / "bad", die_after=1)
    fakes.make(run.folder / "worse", die_after=1, how="user error")
    said = "^2 of 3 can't be measured: bad: .*out of ideas; worse: .*a changed byte in decoder.onnx; copy it again$"
    with pytest.raises(Unfinished, match=said):
        run("bad", "a", "worse")
    assert [m.name for m in results.read(run.out).measurements] == ["a"]


def test_measurements_of_other_subjects_stay(run: Runs) -> None:
    run("a")
    assert [m.name for m in run("b").measurements] == ["a", "b"]


def test_a_damaged_results_file_is_refused_and_left_alone(run: Runs) -> None:
    run.out.parent.mkdir()
    run.out.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        run("a")
    assert run.out.read_text() == "{"


@pytest.mark.wide  # seconds: it is measured twice
@follows("report/answers.py: {}: this is no answer ({}: {}); {}")
def test_damaged_answers_are_measured_again_with_fresh(run: Runs) -> None:
    """Without it the measurement is found in results.json, and its answers stay as they are."""
    [m] = run("a").measurements
    path = run.out.parent / str(m.answers)
    path.write_text("{")
    run("a")
    assert run.reused == ["a"]
    with said("measure again with: masters-edge bench --fresh"):
        answers._read(path)
    [m] = run("a", fresh=True).measurements
    assert len(answers._read(run.out.parent / str(m.answers))) == 8


def test_senseless_requests_are_one_sentence(run: Runs, suite: Suite) -> None:
    a = subjects(run.folder, "a")[0]
    with pytest.raises(UserError, match="nothing to measure"):
        bench([], suite, out=run.out)
    with pytest.raises(UserError, match="two subjects are called 'a'"):
        bench([a, a], suite, out=run.out)
    with pytest.raises(UserError, match="no kind of subject 'bundel'; did you mean 'bundle'"):
        bench([Subject("a", "exported", a.path, "bundel")], suite, out=run.out)
    with pytest.raises(UserError, match="no role 'pupil'"):
        bench([Subject("a", "pupil", a.path, "fake")], suite, out=run.out)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at least 1"):
        bench([a], suite, Settings(threads=0), out=run.out)
    with pytest.raises(UserError, match="no device 'locl'"):
        bench([a], suite, device="locl", out=run.out)
    with pytest.raises(UserError, match="none does not exist"):
        bench([Subject("a", "exported", run.folder / "none", "bundle")], suite, out=run.out)
    assert not run.out.exists()


def test_threads_default_to_the_cores_at_hand(run: Runs) -> None:
    assert run("a", threads=None).measurements[0].threads == machine.usable_cores()


class Board:
    """A device that is this machine under another name, and goes away before its second subject."""

    most_threads = None
    notes = ("the board has another numpy than this machine",)

    def __init__(self, address: str, dies: bool) -> None:
        self.here, self.dies, self.ran = Here(), dies, 0
        self.usable_threads = 1
        self.device = self.here.device.model_copy(update={"kind": "board", "address": address})

    def versions(self, *packages: str) -> dict[str, str]:
        return dict.fromkeys(packages, "1.0")

    def run(self, job: Path, subject: Subject, sha256: str, on_event: devices.OnEvent) -> None:
        self.ran += 1
        if self.dies and self.ran == 2:
            raise devices.Lost("the board is gone")
        self.here.run(job, subject, sha256, on_event)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of a kind of device, `board://...`."""
    module: Any = ModuleType("masters_edge_test_board")
    module.PEERS = {"fake": "tests.benchmarks.fakes", "bundle": peers.KINDS["bundle"]}
    module.asked_for, module.dies = [], False

    @contextmanager
    def connect(address: str, wanted: devices.Wanted) -> Iterator[Board]:
        module.asked_for.append(list(wanted.packages))
        yield Board(address, module.dies)

    module.connect = connect
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(devices.KINDS, "board", module.__name__)
    return module


def test_another_device_stands_beside_this_one_and_is_reused(run: Runs, board: Any) -> None:
    run("a")
    there = run("a", device="board://x")
    assert [(m.device.kind, m.device.address) for m in there.measurements] == [("local", None), ("board", "board://x")]
    assert there.measurements[1].device.cpu == machine.cpu_name() and board.asked_for == [["numpy"]]
    assert run("a", device="board://x") == there and run.reused == ["a"]
    assert len(run("a", device="board://y").measurements) == 3 and run.reused == []


@pytest.mark.wide
def test_a_device_that_goes_away_ends_the_measuring_and_keeps_what_was_measured(run: Runs, board: Any) -> None:
    board.dies = True
    with pytest.raises(devices.Lost, match="the board is gone"):
        run("a", "b", "c", device="board://x")
    assert [m.name for m in results.read(run.out).measurements] == ["a"]
    board.dies = False
    assert len(run("a", "b", "c", device="board://x").measurements) == 3 and run.reused == ["a"]


def test_checkpoints_are_left_out_where_they_cannot_run_and_that_is_said(
    run: Runs, board: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(peers.KINDS, "checkpoint", "tests.benchmarks.fakes")
    exported = subjects(run.folder, "a")[0]
    teacher = Subject("teacher", "teacher", exported.path, "checkpoint")
    heard: list[str] = []
    settings = Settings(backend="fake", cases=False, latency_questions=4)
    found = bench([teacher, exported], run.suite, settings, device="board://x", out=run.out, on_note=heard.append)
    assert [m.name for m in found.measurements] == ["a"]
    assert heard[:2] == ["teacher: PyTorch is not measured on board://x, left out", *Board.notes]
    with pytest.raises(UserError, match="board://x measures bundles, and teacher is none; .*--device local"):
        bench([teacher], run.suite, settings, device="board://x", out=run.out)


def test_other_programs_that_disturb_are_said(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "BUSY_CORES", 0.0)
    heard: list[str] = []
    run("a", on_note=heard.append)
    assert len(heard) == 1 and heard[0].startswith("a: other programs took ") and "--fresh" in heard[0]
    run("a", on_note=heard.append)  # measured before
    assert len(heard) == 1


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("10m", 600), ("1h", 3600), ("90", 90), (" 1.5 m", 90)])
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "10 minutes", "-5s", "1d"])
def test_what_is_no_duration_is_one_sentence(text: str) -> None:
    with pytest.raises(UserError, match="is no duration; write it as 30s, 10m or 1h"):
        seconds_of(text)


def test_a_broken_picture_is_named_counted_as_unanswered_and_gone_past(run: Runs, tmp_path: Path) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes(run.suite.questions[0].image[:40])  # type: ignore[index]
    broken = replace(run.suite.questions[5], image=cut, image_id="cut")
    run.suite = replace(run.suite, questions=(*run.suite.questions[:5], broken, *run.suite.questions[6:]))
    notes: list[str] = []
    found = run("a", on_note=notes.append, questions=None)
    said = f"question q5: the image in {cut} can't be read ("
    assert f"colours: 1 of 20 questions can't be asked and count as unanswered, which is wrong: {said}" in notes[0]
    (m,) = found.measurements
    assert m.accuracy is not None and m.suite is not None and m.answers is not None
    assert (m.accuracy.asked, m.accuracy.right) == (20, 14)  # 15 that a seeing student gets, less this one
    assert m.suite.sha256 == run.suite.sha256 and any(said in sentence for sentence in m.unmeasured)
    rows = [json.loads(line) for line in (run.out.parent / m.answers).read_text().splitlines()]
    assert len(rows) == 20 and rows[-1]["id"] == "q5" and rows[-1]["score"] == 0 and said in rows[-1]["unanswered"]
    run("a", questions=None)
    assert run.reused == ["a"]


def test_a_suite_of_broken_pictures_alone_is_refused(run: Runs) -> None:
    run.suite = replace(run.suite, questions=(replace(run.suite.questions[0], image=b"no picture", image_id="x"),))
    with pytest.raises(UserError, match="suite colours: no image of it can be read"):
        run("a", questions=None)
