"""The measuring process: killed in the middle it loses a phase at most, and never asks or counts a question twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from masters_edge.benchmarks import job, peers, protocol
from masters_edge.benchmarks.devices.local import Here
from masters_edge.benchmarks.protocol import Options, Subject
from masters_edge.benchmarks.results import Measurement
from masters_edge.benchmarks.suites import Suite, from_questions
from masters_edge.common.errors import UserError
from masters_edge.data.records import Question
from tests import tiny
from tests.advice import follows, said
from tests.benchmarks import fakes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="ends processes by signals")

OPTIONS = Options(threads=1, latency_questions=5, warm_up=1, backend="fake", cases=False)


def prepared(subject: Subject, suite: Suite, folder: Path, options: Options = OPTIONS, sha256: str = "00") -> Path:
    here, peer = Here(), peers.module_of(subject.kind)
    return protocol.prepare(
        subject, peer, suite, options, folder, sha256=sha256, device=here.device, versions={}, candidates={}
    )


def finished(subject: Subject, suite: Suite, folder: Path, options: Options = OPTIONS) -> Measurement:
    here = Here()
    here.run(folder, subject, "00", lambda event: None)
    return protocol.assemble(folder, subject, suite, options, here.device, sha256="00")


def start(folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "masters_edge.benchmarks.worker", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def heard(process: "subprocess.Popen[bytes]", **fields: Any) -> dict[str, Any]:
    """The first event with these fields."""
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if fields.items() <= event.items():
            return event
    raise AssertionError(f"no event {fields}")


def end(process: "subprocess.Popen[bytes]") -> None:
    """kill -9, and wait until its child is gone too."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert children and not alive


@pytest.mark.wide
def test_a_real_bundle_killed_in_its_accuracy_pass_goes_on_at_the_next_question(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from tests.export import bundles

    pictures = []
    for number in range(4):
        pictures.append(tmp_path / f"{number}.png")
        tiny.picture(32, 32, seed=number).save(pictures[-1])
    suite = from_questions(
        [Question(f"q{n}", f"{bundles.QUESTIONS[n % 3]} {n}", pictures[n % 4], str(n % 4), "red") for n in range(400)],
        "exact_match",
    )
    subject = Subject("student", "exported", bundles.exported("smolvlm", "fp32"))
    options = Options(threads=1, latency_questions=4, warm_up=1, backend="onnxruntime")
    folder = prepared(subject, suite, tmp_path / "job", options)
    process = start(folder)
    event = heard(process, phase="accuracy")
    end(process)
    answers = folder / job.RAW / job.ANSWERS
    before = job.read_rows(answers)
    assert 4 < event["done"] <= len(before) < 400
    figures = (folder / job.RAW / job.LATENCY).read_bytes()
    with answers.open("ab") as file:
        file.write(b'{"id": "q3", "te')  # what a power cut leaves
    assert prepared(subject, suite, folder, options) == folder  # nothing is thrown away
    measured = finished(subject, suite, folder, options)
    after = job.read_rows(answers)
    assert after[: len(before)] == before and sorted(row["id"] for row in after) == sorted(
        q.id for q in suite.questions
    )
    assert (folder / job.RAW / job.LATENCY).read_bytes() == figures
    assert measured.accuracy and measured.accuracy.asked == 400 and measured.runtime == "onnxruntime"
    assert measured.latency.cold_start_ms and measured.latency.cold_start_ms.n == 3 and len(measured.cases) == 4
    # The same answers as without a kill.
    whole = prepared(subject, suite, tmp_path / "whole", options)
    finished(subject, suite, whole, options)
    assert job.read_rows(whole / job.RAW / job.ANSWERS) == after


def test_a_kill_among_the_latency_questions_counts_none_of_them_twice(
    fake_kind: str, suite: Suite, tmp_path: Path
) -> None:
    subject = Subject("fake", "exported", fakes.make(tmp_path / "s", pause_s=0.3), "fake")
    folder = prepared(subject, suite, tmp_path / "job")
    process = start(folder)
    heard(process, phase="latency")
    end(process)
    assert (folder / job.RAW / job.COLD).exists() and not (folder / job.RAW / job.LATENCY).exists()
    fakes.make(tmp_path / "s")
    # Answers that reached the disk before the figures did.
    job.append_rows(folder / job.RAW / job.ANSWERS, [{"id": "q0", "text": "red", "score": 1.0}])
    measured = finished(subject, suite, folder)
    assert measured.accuracy and (measured.accuracy.right, measured.accuracy.asked) == (15, 20)
    assert measured.latency.total_ms and measured.latency.total_ms.n == 5
    assert measured.latency.cold_start_ms and measured.latency.cold_start_ms.n == fakes.COLD_STARTS


@pytest.mark.wide
def test_a_kill_in_the_sustained_loop_starts_it_again(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    options = Options(threads=1, latency_questions=5, warm_up=1, backend="fake", cases=False, sustain_s=600)
    subject = Subject("fake", "exported", fakes.make(tmp_path / "s", pause_s=0.01), "fake")
    folder = prepared(subject, suite, tmp_path / "job", options)
    process = start(folder)
    heard(process, phase="sustained")
    end(process)
    raw = folder / job.RAW
    assert (raw / job.LATENCY).exists() and not (raw / job.SUSTAINED).exists()
    assert len(job.read_rows(raw / job.ANSWERS)) == 5


def test_the_worker_ends_with_the_one_who_listens(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    subject = Subject("fake", "exported", fakes.make(tmp_path / "s", die_after=3, how="sleep"), "fake")
    folder = prepared(subject, suite, tmp_path / "job")
    command = [sys.executable, "-m", "masters_edge.benchmarks.worker", str(folder), "--watch-stdin"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    heard(process, phase="warm-up")
    children = psutil.Process(process.pid).children(recursive=True)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    assert process.wait(20) == 1 and not psutil.wait_procs(children, timeout=20)[1]
    process.stdout.close()


def test_two_at_once_are_refused(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    subject, folder, process = another(suite, tmp_path)
    with pytest.raises(UserError, match="measuring fake stopped: another process is measuring in"):
        Here().run(folder, subject, "00", lambda event: None)
    end(process)


@pytest.mark.wide  # seconds: it is measured whole
@follows("another process is measuring in {}; wait for its end, or stop it")
def test_it_is_measured_once_the_other_has_ended(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    subject, folder, process = another(suite, tmp_path)
    with said("wait for its end, or stop it"):
        Here().run(folder, subject, "00", lambda event: None)
    end(process)
    fakes.make(tmp_path / "s")
    Here().run(folder, subject, "00", lambda event: None)


def another(suite: Suite, tmp_path: Path) -> tuple[Subject, Path, subprocess.Popen]:
    """A subject, its job, and a process that measures it and hangs."""
    subject = Subject("fake", "exported", fakes.make(tmp_path / "s", die_after=3, how="sleep"), "fake")
    folder = prepared(subject, suite, tmp_path / "job")
    process = start(folder)
    heard(process, phase="warm-up")
    return subject, folder, process


@pytest.mark.wide
@follows(
    "protocol.py: measuring {} ended without its figures in {}; run the same command again",
    "questions in {}; remove that folder and measure again",
    "phases.py: {} holds answers to other questions; remove {}",
)
def test_figures_that_are_not_whole_are_measured_again(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    subject = Subject("fake", "exported", fakes.make(tmp_path / "s"), "fake")
    folder = prepared(subject, suite, tmp_path / "job")
    raw = folder / job.RAW
    with said("run the same command again"):
        protocol.assemble(folder, subject, suite, OPTIONS, Here().device, sha256="00")
    assert finished(subject, suite, folder).accuracy.right == 15
    lines = (raw / job.ANSWERS).read_text().splitlines(keepends=True)
    (raw / job.ANSWERS).write_text("".join(lines[:-1]))
    with said("remove that folder and measure again"):
        protocol.assemble(folder, subject, suite, OPTIONS, Here().device, sha256="00")
    shutil.rmtree(raw)
    assert finished(subject, suite, folder).accuracy.right == 15
    (raw / job.ANSWERS).write_text("".join(reversed(lines)))
    (raw / job.DONE).unlink()
    with said("holds answers to other questions; remove"):
        Here().run(folder, subject, "00", lambda event: None)
    shutil.rmtree(folder)
    assert finished(subject, suite, prepared(subject, suite, folder)).accuracy.right == 15


def test_a_subject_killed_for_want_of_memory_is_said_and_resumed(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    subject = Subject("fake", "exported", fakes.make(tmp_path / "s", die_after=15, how="signal"), "fake")
    folder = prepared(subject, suite, tmp_path / "job")
    with pytest.raises(UserError, match="ended by SIGKILL, most likely for want of memory"):
        Here().run(folder, subject, "00", lambda event: None)
    kept = len(job.read_rows(folder / job.RAW / job.ANSWERS))
    assert kept >= 5
    fakes.make(tmp_path / "s")
    (tmp_path / "s" / "asked.txt").unlink()
    assert finished(subject, suite, folder).accuracy.right == 15
    # First question, and the rest: neither warm-up nor latency again.
    assert len((tmp_path / "s" / "asked.txt").read_text().splitlines()) == 1 + 20 - kept


@pytest.mark.parametrize("change", ["sha256", "suite", "options"])
def test_raw_files_of_another_job_are_thrown_away(fake_kind: str, suite: Suite, tmp_path: Path, change: str) -> None:
    subject = Subject("fake", "exported", fakes.make(tmp_path / "s"), "fake")
    folder = prepared(subject, suite, tmp_path / "job")
    mark = folder / job.RAW / job.COLD
    job.append_rows(mark, [{"cold_start_ms": 1.0}])
    prepared(subject, suite, folder)
    assert mark.exists()
    if change == "sha256":
        prepared(subject, suite, folder, sha256="01")
    elif change == "suite":
        prepared(subject, suite.take(19), folder)
    else:
        prepared(subject, suite, folder, Options(threads=2, latency_questions=5, warm_up=1, backend="fake"))
    assert not mark.exists()


def test_a_job_folder_is_portable(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    """Moved elsewhere with its subject, and the user's own pictures gone, it is done as well."""
    picture = tmp_path / "pictures" / "a b\u00fc.png"
    picture.parent.mkdir()
    picture.write_bytes(suite.questions[0].image)  # type: ignore[arg-type]
    own = from_questions([Question("one", "what?", picture, "a", "red")], "exact_match")
    subject = Subject("fake", "exported", fakes.make(tmp_path / "s"), "fake")
    folder = prepared(subject, own, tmp_path / "job")
    picture.unlink()
    moved = folder.rename(tmp_path / "moved")
    (tmp_path / "s").rename(moved / "subject")
    job.write_json(moved / job.JOB, job.read_json(moved / job.JOB) | {"subject": "subject"})
    assert finished(subject, own, moved).accuracy.right == 1
    assert str(tmp_path) not in (moved / job.QUESTIONS).read_text()


def test_rows_survive_what_a_torn_write_leaves(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert job.read_rows(path) == job.mend_rows(path) == []
    job.append_rows(path, [{"n": 1}, {"text": "\u00e4\n\u2028"}])
    whole = path.read_bytes()
    for torn in (b'{"n": 3', b"\0\0\0\0\n", b"{}", b"[1, 2"):
        path.write_bytes(whole + torn)
        assert job.read_rows(path) == job.mend_rows(path) == [{"n": 1}, {"text": "\u00e4\n\u2028"}]
        assert path.read_bytes() == whole
    job.append_rows(path, [{"n": 4}])
    assert len(job.read_rows(path)) == 3


def test_a_signal_from_outside_ends_all_of_it(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    subject = Subject("fake", "exported", fakes.make(tmp_path / "s", die_after=3, how="sleep"), "fake")
    process = start(prepared(subject, suite, tmp_path / "job"))
    heard(process, phase="warm-up")
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGTERM)
    process.wait(20)
    assert not psutil.wait_procs(children, timeout=20)[1]
