"""Measuring on a board over ssh, against a real sshd on loopback: whole, and broken off in every place."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from masters_edge.benchmarks import machine
from masters_edge.benchmarks.devices import Lost, Wanted, ssh
from masters_edge.benchmarks.progress import Step
from masters_edge.benchmarks.suites import Suite
from masters_edge.common.errors import UserError
from tests.benchmarks.board import LoopbackBoard
from tests.benchmarks.sshd import needs_sshd

pytestmark = needs_sshd


@pytest.fixture
def board(tmp_path: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackBoard]:
    made = LoopbackBoard(tmp_path, suite, monkeypatch)
    yield made
    made.sshd.close()


def every_id(suite: Suite) -> list[str]:
    return sorted(question.id for question in suite.questions)


def test_measures_and_cleans_up(board: LoopbackBoard, suite: Suite) -> None:
    answered = board.run(board.subject(weights=1_000_000))
    assert sorted(answered) == every_id(suite)
    device = board.measurement.device
    assert (device.kind, device.address) == ("ssh", "ssh://board")
    assert device.cpu == machine.describe()["cpu"]
    assert board.measurement.accuracy is not None and board.measurement.accuracy.per_cent == 75
    assert board.leftovers() == []
    phases = [step.phase for step in board.steps]
    assert phases[0] == "connecting" and phases[-1] == "accuracy"
    assert max(step.total for step in board.steps if step.phase == "copy") > 1


def test_an_address_in_full_reaches_the_same_board(board: LoopbackBoard) -> None:
    board.sshd.start()
    full = f"ssh://{os.environ.get('USER', 'root')}@127.0.0.1:{board.sshd.port}"
    with board.sshd.config.open("a") as config:
        config.write(f" IdentityFile {board.sshd.folder}/user\n")
    with ssh.connect(full, Wanted()) as place:
        assert place.device.address == full
        assert place.versions("numpy", "nothing-of-that-name") == machine.versions("numpy")


@pytest.mark.wide
def test_a_copy_that_broke_off_goes_on(board: LoopbackBoard) -> None:
    subject = board.subject(weights=30_000_000)

    def vanish(step: Step) -> None:
        if step.phase == "copy" and step.done > 20:
            board.sshd.kill()

    with pytest.raises(Lost, match="^the connection to board was lost while copying student to it; what was measured"):
        board.run(subject, vanish)
    assert board.copied_mb() >= 20
    [part] = [name for name in board.leftovers() if name.endswith(".part")]
    there = (board.sshd.home / part).stat().st_size / 1e6
    assert 10 < there < 30
    board.steps.clear()
    board.run(subject)
    assert board.copied_mb() == pytest.approx(30 - there, abs=0.5)
    assert board.leftovers() == []


@pytest.mark.slow
def test_broken_bytes_are_copied_anew(board: LoopbackBoard) -> None:
    subject = board.subject(weights=3_000_000)

    def vanish(step: Step) -> None:
        if step.phase == "copy" and step.done > 2:
            board.sshd.kill()

    with pytest.raises(Lost):
        board.run(subject, vanish)
    [part] = [name for name in board.leftovers() if name.endswith(".part")]
    with (board.sshd.home / part).open("r+b") as file:
        file.write(b"rotten")
    board.steps.clear()
    board.run(subject)
    assert board.copied_mb() == pytest.approx(3, abs=0.1)


@pytest.mark.slow
def test_rotten_weights_on_the_board_are_found_before_measuring(board: LoopbackBoard, suite: Suite) -> None:
    subject = board.subject(weights=2_000_000, answer_s=0.02)

    def interrupt(step: Step) -> None:
        if step.phase == "accuracy" and step.done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        board.run(subject, interrupt)
    [weights] = board.sshd.home.glob("bundles/*/weights.bin")
    with weights.open("r+b") as file:
        file.write(b"rotten")
    board.steps.clear()
    assert sorted(board.run(subject)) == every_id(suite)
    assert board.copied_mb() == pytest.approx(2, abs=0.1)


@pytest.mark.wide
def test_a_worker_outlives_the_connection(board: LoopbackBoard, suite: Suite) -> None:
    """The same command attaches to it again: nothing is asked twice."""
    subject = board.subject(answer_s=0.1)

    def vanish(step: Step) -> None:
        if step.phase == "accuracy" and step.done >= 7 and board.sshd.process is not None:
            board.sshd.kill()

    with pytest.raises(
        Lost, match="^the connection to board was lost while measuring student; what was measured is kept"
    ):
        board.run(subject, vanish)
    assert board.sshd.workers()
    with pytest.raises(UserError, match="board is there|127.0.0.1|no ssh server"):
        board.run(subject, start=False)
    assert sorted(board.run(subject)) == every_id(suite)
    asked = board.times_asked()
    before = 6  # a cold start, and five to warm up
    assert sum(asked.values()) == len(suite.questions) + before
    assert board.leftovers() == []


@pytest.mark.slow
def test_a_board_that_was_switched_off_goes_on_with_the_next_question(board: LoopbackBoard, suite: Suite) -> None:
    subject = board.subject(answer_s=0.05)

    def switch_off(step: Step) -> None:
        if step.phase == "accuracy" and step.done >= 12 and board.sshd.process is not None:
            board.sshd.close()

    with pytest.raises(Lost):
        board.run(subject, switch_off)
    time.sleep(0.2)
    assert not board.sshd.workers()
    before = sum(board.times_asked().values())
    assert sorted(board.run(subject)) == every_id(suite)
    again = sum(board.times_asked().values()) - before
    assert again <= len(suite.questions) - 10  # at most what was in flight is asked a second time, and one to load


def test_ctrl_c_stops_the_board_and_keeps_what_it_has(board: LoopbackBoard, suite: Suite) -> None:
    subject = board.subject(answer_s=0.05)

    def interrupt(step: Step) -> None:
        if step.phase == "accuracy" and step.done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        board.run(subject, interrupt)
    assert not board.sshd.workers()
    [kept] = board.sshd.home.glob("jobs/*/raw/answers.jsonl")
    assert len(kept.read_text().splitlines()) >= 10
    before = sum(board.times_asked().values())
    assert sorted(board.run(subject)) == every_id(suite)
    assert sum(board.times_asked().values()) - before <= 12


@pytest.mark.wide
def test_two_benches_on_one_board_are_refused(board: LoopbackBoard) -> None:
    board.sshd.start()
    with ssh.connect(board.sshd.address, Wanted()):
        started = time.monotonic()
        with pytest.raises(UserError, match=r"^board is measuring for .*@.* since \d\d:\d\d; two at once would spoil"):
            board.run(board.subject())
        assert time.monotonic() - started < 5
    board.run(board.subject())


@pytest.mark.slow
def test_another_bundle_stops_what_was_left_running(board: LoopbackBoard, suite: Suite) -> None:
    """The bundle changed on the host between the two runs: it is copied and measured anew."""
    subject = board.subject(answer_s=0.3, weights=1_000_000)

    def vanish(step: Step) -> None:
        if step.phase == "accuracy" and board.sshd.process is not None:
            board.sshd.kill()

    with pytest.raises(Lost):
        board.run(subject, vanish)
    [left] = board.sshd.workers()[:1]
    changed = board.subject(answer_s=0, weights=2_000_000)
    answered = board.run(changed)
    assert left not in board.sshd.workers()
    assert sorted(answered) == every_id(suite)
    assert board.copied_mb() == pytest.approx(2, abs=0.1)


@pytest.mark.slow
def test_a_subject_that_fails_says_why_and_leaves_the_next_one_alone(board: LoopbackBoard, suite: Suite) -> None:
    with pytest.raises(UserError, match="^measuring broken .*stopped: the bundle has a changed byte in decoder.onnx"):
        board.run(board.subject("broken", die_after=3, how="user error"))
    with pytest.raises(UserError, match="^measuring killed .*SIGKILL"):
        board.run(board.subject("killed", die_after=3, how="signal"))
    assert not list((board.sshd.home / "bundles").iterdir())
    assert sorted(board.run(board.subject())) == every_id(suite)


@pytest.fixture
def small_disk(board: LoopbackBoard) -> Iterator[Path]:
    """The board's cache on a disk of 8 MB."""
    cache = board.sshd.cache
    cache.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(cache)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    yield cache
    board.sshd.close()
    subprocess.run(["umount", "-l", str(cache)], check=True)


def fill(disk: Path) -> Path:
    """Until nothing fits any more."""
    file = disk / "full"
    with pytest.raises(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
    return file


@pytest.mark.slow
def test_a_disk_that_is_too_small(board: LoopbackBoard, small_disk: Path) -> None:
    with pytest.raises(
        UserError, match=r"^the disk of board is full: copying big to it takes 12.0 MB, and .* has [78]"
    ):
        board.run(board.subject("big", weights=12_000_000))
    assert not any(step.done for step in board.steps)
    board.run(board.subject())


@pytest.mark.wide
def test_a_disk_that_fills_up_while_copying(board: LoopbackBoard, small_disk: Path) -> None:
    subject = board.subject(weights=5_000_000)
    filler: list[Path] = []

    def other(step: Step) -> None:
        if step.phase == "copy" and step.total > 1 and not filler:
            filler.append(fill(small_disk))

    with pytest.raises(UserError, match=r"^the disk of board is full \(.*\), copying student to it stopped; make room"):
        board.run(subject, other)
    filler[0].unlink()
    board.run(subject)
    assert board.leftovers() == []


@pytest.mark.slow
def test_a_disk_that_fills_up_while_measuring(board: LoopbackBoard, small_disk: Path, suite: Suite) -> None:
    subject = board.subject(answer_s=0.05)
    filler: list[Path] = []

    def other(step: Step) -> None:
        if step.phase == "accuracy" and step.done >= 8 and not filler:
            filler.append(fill(small_disk))

    with pytest.raises(UserError, match="^measuring student .*stopped: .*No space left on device"):
        board.run(subject, other)
    filler[0].unlink()
    assert sorted(board.run(subject)) == every_id(suite)
