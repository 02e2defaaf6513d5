import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masters_edge.benchmarks import cases, devices, machine, peers, protocol
from masters_edge.benchmarks.devices.local import Here
from masters_edge.benchmarks.progress import OnProgress, Step, progress_bar
from masters_edge.benchmarks.protocol import Options, Subject
from masters_edge.benchmarks.results import Measurement
from masters_edge.benchmarks.suites import Suite
from masters_edge.common.errors import UserError
from tests.benchmarks import fakes

OPTIONS = Options(threads=1, latency_questions=8, warm_up=3, backend="fake", cases=False)


def measure_here(
    subject: Subject, suite: Suite | None, options: Options, on_progress: OnProgress | None = None, *, folder: Path
) -> Measurement:
    """The whole way of one subject, as `bench` goes it; the job stays in `folder`."""
    here, sha256 = Here(), "00"
    about = dict(sha256=sha256, device=here.device, versions={}, candidates={})
    protocol.prepare(subject, peers.module_of(subject.kind), suite, options, folder, **about)
    here.run(folder, subject, sha256, protocol.as_steps(subject, on_progress))
    return protocol.assemble(folder, subject, suite, options, here.device, sha256=sha256)


def measure(folder: Path, suite: Suite | None, options: Options = OPTIONS, **behaviour: Any) -> Measurement:
    subject = Subject("fake", "exported", fakes.make(folder, **behaviour), "fake", {"steps": 5, "seconds": 1.5})
    return measure_here(subject, suite, options, folder=folder.parent / f"job-{folder.name}")


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


def test_which_runtime_is_fastest_is_found_out_once_and_before_any_start(
    fake_kind: str, suite: Suite, tmp_path: Path
) -> None:
    m = measure(tmp_path / "s", suite, replace(OPTIONS, backend="auto"), choose_s=1.0)
    assert (m.backend, m.runtime, m.backend_reason) == ("auto", "fake", "fake, the fastest here")
    assert (tmp_path / "s" / "chosen.txt").read_text() == "chosen\n"
    assert m.latency.cold_start_ms and m.latency.cold_start_ms.median < 1000


def test_cases_hold_every_size_and_prompt_and_what_has_no_room_says_so(
    fake_kind: str, suite: Suite, tmp_path: Path
) -> None:
    m = measure(tmp_path / "s", suite, replace(OPTIONS, cases=True), context=120)
    assert len({(c.image_width, c.image_height) for c in m.cases}) == 2 and len(m.cases) == 4
    for case in m.cases:
        assert case.image_tokens == 64 and case.prompt_tokens == {"short": 72, "long": 171}[case.prompt]
        if case.prompt == "short":
            assert case.skipped is None and case.latency and case.latency.total_ms
            assert case.latency.total_ms.n == cases.REPEATS
        else:
            assert case.latency is None and "take 187 tokens, the student has room for 120" in str(case.skipped)
    exact = [line for line in (tmp_path / "s" / "asked.txt").read_text().splitlines() if "exactly" in line]
    assert exact == [f"{cases.PROMPTS['short']} exactly {cases.NEW_TOKENS}"] * 2 * (1 + cases.REPEATS)
    assert m.accuracy and m.accuracy.right == 15


def test_a_picture_that_a_student_cannot_read_skips_its_case_alone(
    fake_kind: str, suite: Suite, tmp_path: Path
) -> None:
    m = measure(tmp_path / "s", suite, replace(OPTIONS, cases=True), widest=512)
    assert [case.skipped for case in m.cases] == [None, None] + ["this bundle reads at most 512 pixels"] * 2


def test_case_pictures_are_drawn_the_same_everywhere() -> None:
    import hashlib

    drawn = b"".join(cases.picture(*size).tobytes() for size in cases.SIZES)
    assert hashlib.sha256(drawn).hexdigest()[:16] == "8609e673400b78a1"
    assert [len(text.split()) for text in cases.PROMPTS.values()] == [8, 107]


def test_the_sustained_loop_compares_its_ends(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    """Each of the fake's answers says that it took longer than the one before."""
    m = measure(tmp_path / "s", suite, replace(OPTIONS, sustain_s=1.2), stretch_s=0.3, pause_s=0.005)
    assert m.sustained and len(m.sustained.moments) >= 3 and m.sustained.seconds >= 1.2
    first, last = m.sustained.moments[0], m.sustained.moments[-1]
    assert m.sustained.speed_left == pytest.approx(first.total_ms / last.total_ms) and m.sustained.speed_left < 1
    assert all(moment.answers >= 10 for moment in m.sustained.moments)
    at = [moment.at_s for moment in m.sustained.moments]
    assert at == sorted(at) and at[-1] == m.sustained.seconds


def test_a_devices_own_meters_are_read(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    """On a made-up board: 6 watts all the time, 55 degrees, 2,400 MHz."""
    board = {
        "class/hwmon/hwmon3/name": "ina3221",
        "class/hwmon/hwmon3/in1_label": "VDD_IN",
        "class/hwmon/hwmon3/in1_input": 5000,
        "class/hwmon/hwmon3/curr1_input": 1200,
        "class/thermal/thermal_zone0/type": "cpu-thermal",
        "class/thermal/thermal_zone0/temp": 55000,
        "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": 2400000,
        "devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil",
    }
    for name, value in board.items():
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    options = replace(OPTIONS, sustain_s=0.2)
    m = measure(tmp_path / "s", suite, options, root=str(tmp_path), meter_s=0.4, pause_s=0.02, stretch_s=0.1)
    assert m.energy and m.energy.source == "INA3221 VDD_IN" and m.energy.watts == pytest.approx(6)
    assert m.energy.idle_watts == pytest.approx(6)
    assert 0.02 * 6 <= m.energy.joules_per_answer < 1
    assert (m.conditions.celsius_before, m.conditions.celsius_after, m.conditions.mhz_after) == (55, 55, 2400)
    assert m.conditions.governor == "schedutil" and m.unmeasured == ()
    assert m.sustained and (m.sustained.moments[0].celsius, m.sustained.moments[0].mhz) == (55, 2400)


def test_without_a_suite_latency_alone_is_measured(fake_kind: str, tmp_path: Path) -> None:
    m = measure(tmp_path / "s", None, replace(OPTIONS, latency_questions=4))
    assert (m.suite, m.accuracy, m.answers, m.latency_questions) == (None, None, None, 4)
    asked = (tmp_path / "s" / "asked.txt").read_text().splitlines()
    assert m.latency.total_ms and m.latency.total_ms.n == 4 and all("exactly 16" in line for line in asked)


def test_a_checkpoint_is_neither_asked_for_a_backend_nor_tired(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    subject = Subject("fake", "teacher", fakes.make(tmp_path / "s"), "fake")
    m = measure_here(subject, suite, replace(OPTIONS, sustain_s=5), folder=tmp_path / "job")
    assert m.sustained is None and any("for exported students alone" in text for text in m.unmeasured)


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


def test_a_questions_own_metric_scores_it(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    questions = [replace(q, answer="purpel" if n < 4 else "purple") for n, q in enumerate(suite.questions)]
    questions[:2] = [replace(question, metric="anls") for question in questions[:2]]
    found = measure(tmp_path / "a", replace(suite, questions=tuple(questions)), says="purple")
    assert found.accuracy.right == pytest.approx(16 + 2 * (1 - 2 / 6))
    assert found.suite.metric == "anls (2), exact_match (18)"


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
        measure_here(subject, suite, OPTIONS, stop, folder=tmp_path / "job")
    assert {p.pid for p in psutil.Process().children()} <= before and time.monotonic() - started < 60


def test_progress_counts_up_to_the_end(fake_kind: str, suite: Suite, tmp_path: Path) -> None:
    steps: list[Step] = []
    subject = Subject("fake", "exported", fakes.make(tmp_path / "s"), "fake")
    with progress_bar() as show:
        measure_here(subject, suite, OPTIONS, lambda s: (steps.append(s), show(s))[0], folder=tmp_path / "job")
    assert [s.phase for s in steps[:5]] == ["start", "start", "warm-up", "warm-up", "warm-up"]
    asked = [s for s in steps if s.phase in ("latency", "accuracy")]
    assert [s.done for s in asked] == sorted({s.done for s in asked})
    assert (asked[-1].done, asked[-1].total, asked[-1].right) == (20, 20, 15)


def test_devices_are_found_by_name() -> None:
    with devices.connect("local") as place:
        assert place.device.kind == "local" and place.versions("numpy", "no-such-package").keys() == {"numpy"}
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
