import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masters_edge.benchmarks import devices, machine, protocol
from masters_edge.benchmarks.progress import Step, progress_bar
from masters_edge.benchmarks.protocol import Options, Subject, measure_here
from masters_edge.benchmarks.results import Measurement
from masters_edge.benchmarks.suites import Suite
from masters_edge.errors import UserError
from tests.benchmarks import fakes

OPTIONS = Options(threads=1, latency_questions=8, warm_up=3)


def measure(folder: Path, suite: Suite, options: Options = OPTIONS, **behaviour: Any) -> Measurement:
    subject = Subject("fake", "exported", fakes.make(folder, **behaviour), "fake", {"steps": 5, "seconds": 1.5})
    return measure_here(subject, suite, options, sha256="00")


def test_figures_of_a_known_student(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    m = measure(tmp_path / "s", suite)
    assert (m.accuracy.right, m.accuracy.asked, m.accuracy.per_cent) == (15, 20, 75)
    assert m.accuracy.low < 75 < m.accuracy.high
    # The first answer is the cold start's, three are warm-up, so the eight that count are the 5th to the 12th.
    total = m.latency.total_ms
    assert total is not None and (total.median, total.p90, total.spread, total.n) == pytest.approx((8.5, 11.3, 3.5, 8))
    assert m.latency.vision_ms is None and m.latency.ttft_ms is not None and m.latency.ttft_ms.median == 4
    assert m.latency.decode_tokens_per_s is not None and m.latency.decode_tokens_per_s.n == 4
    assert m.latency_questions == 8 and not m.batched
    assert (m.training.steps, m.training.seconds, m.parameters, m.size_bytes) == (5, 1.5, 1234, 5678)
    assert (m.target, m.runtime, m.scheme) == ("onnx", "fake", "int4")
    assert m.device.cpu == machine.cpu_name() and m.device.name == machine.describe()["name"]
    assert m.started < m.ended


def test_cold_start_holds_loading_in_every_fresh_process(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    cold = measure(tmp_path / "s", suite, load_s=0.5).latency.cold_start_ms
    assert cold is not None and cold.n == fakes.COLD_STARTS and cold.median > 500
    asked = (tmp_path / "s" / "asked.txt").read_text().splitlines()
    assert len(asked) == (fakes.COLD_STARTS - 1) + 1 + 3 + 20


def test_peak_memory_is_the_students_own(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    """Neither the parent's memory nor the batches of the accuracy pass count."""
    ballast = b"x" * (400 << 20)
    m = measure(tmp_path / "s", suite, batch_size=4, batch_mib=400)
    assert len(ballast) and m.batched and 10 < m.peak_rss_mib < 250


def test_every_subject_gets_the_same_latency_questions(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    one_by_one = measure(tmp_path / "a", suite)
    batched = measure(tmp_path / "b", suite, batch_size=5)
    asked = [(tmp_path / name / "asked.txt").read_text().splitlines()[1:13] for name in "ab"]
    assert asked[0] == asked[1] and asked[0][4:] == [q.text for q in suite.take(8).questions]
    assert (tmp_path / "b" / "asked.txt").read_text().splitlines()[-3:] == ["batch of 5", "batch of 5", "batch of 2"]
    assert batched.accuracy == one_by_one.accuracy and batched.batched and not one_by_one.batched


def test_any_accepted_answer_counts(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    questions = tuple(replace(q, answers=("purple", str(q.answer))) for q in suite.questions)
    assert measure(tmp_path / "a", replace(suite, questions=questions)).accuracy.right == 15
    assert measure(tmp_path / "b", replace(suite, questions=questions), says="purple").accuracy.right == 20


def test_stray_prints_do_not_disturb(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    assert measure(tmp_path / "s", suite, print="{ hello").accuracy.right == 15


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", "stopped: RuntimeError: out of ideas"),
        ("user error", "measuring fake stopped: the bundle has a changed byte in decoder.onnx; copy it again"),
        pytest.param(
            "signal",
            "its process was ended by SIGKILL, most likely for want of memory",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="no signals"),
        ),
    ],
)
def test_a_student_that_fails_is_one_sentence(
    fake_kind: str, suite: Suite, tmp_path: Path, how: str, said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        measure(tmp_path / "s", suite, die_after=9, how=how)
    assert "\n" not in str(caught.value)


def test_a_broken_picture_is_named(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    first, *rest = suite.questions
    with pytest.raises(UserError, match="question q0: the image in .* can't be read"):
        measure(tmp_path / "s", replace(suite, questions=(replace(first, image=b"no image", image_id="x"), *rest)))


def test_an_interruption_ends_the_measuring_process(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def stop(step: Step) -> None:
        if step.phase == "latency":
            raise Interrupted

    subject = Subject("fake", "exported", fakes.make(tmp_path / "s", die_after=6, how="sleep"), "fake")
    before, started = {p.pid for p in psutil.Process().children()}, time.monotonic()
    with pytest.raises(Interrupted):
        measure_here(subject, suite, OPTIONS, stop, sha256="00")
    assert {p.pid for p in psutil.Process().children()} <= before and time.monotonic() - started < 60


def test_nothing_is_left_behind(fake_kind: str, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    measure(tmp_path / "s", suite)
    assert os.listdir(tmp_path / "temporary") == []


def test_progress_counts_up_to_the_end(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    steps: list[Step] = []
    subject = Subject("fake", "exported", fakes.make(tmp_path / "s"), "fake")
    with progress_bar() as show:
        measure_here(subject, suite, OPTIONS, lambda step: (steps.append(step), show(step))[0], sha256="00")
    assert [s.phase for s in steps[:4]] == ["start", "warm-up", "warm-up", "warm-up"]
    asked = [s for s in steps if s.phase in ("latency", "accuracy")]
    assert [s.done for s in asked] == sorted({s.done for s in asked})
    assert (asked[-1].done, asked[-1].total, asked[-1].right) == (20, 20, 15)


def test_devices_are_found_by_name() -> None:
    assert devices.module_of("local").describe().kind == "local"
    with pytest.raises(UserError, match="no device 'locl'; did you mean 'local'"):
        devices.module_of("locl")


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_summary_equals_numpy(values: list[float]) -> None:
    import numpy as np

    stage = protocol.summarize(values)
    assert stage is not None
    quarter, median, three_quarters, p90 = np.percentile(values, [25, 50, 75, 90])
    assert (stage.median, stage.p90, stage.n) == pytest.approx((median, p90, len(values)))
    assert stage.spread == pytest.approx(three_quarters - quarter, abs=1e-6)


def test_summary_of_nothing_is_nothing() -> None:
    assert protocol.summarize([]) is None
