"""Measuring over the page's interface, whole and broken off in every place; the page here is `fake_page`."""

import _thread
import json
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from masters_edge.benchmarks import Settings, Subject, bench, results
from masters_edge.benchmarks.devices import Lost
from masters_edge.benchmarks.measure import Unfinished
from masters_edge.benchmarks.page import desk
from tests.advice import follows
from tests.page.fake_page import FakePage, Host, Vanished, bundle, student, suite


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "LOOK_S", 0.02)
    monkeypatch.setattr(desk, "FAREWELL_S", 0.2)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "bench" / "results.json"


def host(out: Path, **options: Any) -> Host:
    return Host(bundle(), suite(), out, **options)


def opened(at: Host, **facts: Any) -> FakePage:
    """A page that has claimed the link."""
    page = FakePage(at.url, student(), **facts)
    assert page.claim().status_code == 200
    return page


def reloaded(page: FakePage) -> FakePage:
    """The same browser's page, opened anew: of the link only the cookie is left."""
    again = FakePage(f"{page.origin}/#t=", student())
    again.http.cookies.update(page.http.cookies)
    assert again.claim(None).status_code == 200
    return again


def raw_of(out: Path) -> Path:
    (job,) = (path for path in (out.parent / ".jobs").iterdir() if path.is_dir())
    return job / "raw"


def test_a_page_measures_and_the_results_are_as_those_of_any_device(out: Path, tmp_path: Path) -> None:
    at = host(out, cases=True, sustain_s=10)
    with opened(at) as page:
        job = page.job()
        assert job["done"] == dict.fromkeys(job["done"], 0) | {
            "choice": None, "facts": False, "latency": False, "sustained": False,
        }  # fmt: skip
        page.download(job, tmp_path / "copy")
        page.hidden_s = 2.5
        page.measure(job)
        card = page.until(lambda state: state["phase"] == "ended")["cards"][0]
    found = at.measurement()
    assert (tmp_path / "copy" / "onnx").is_dir()
    assert (found.runtime, found.backend, found.backend_reason) == (
        "wasm", "auto", "this browser has no WebGPU: WASM is left",
    )  # fmt: skip
    assert found.versions.keys() == {"masters-edge", "@huggingface/transformers", "onnxruntime-web"}
    assert found.accuracy is not None and (found.accuracy.right, found.accuracy.asked) == (5, 10)
    assert found.latency.total_ms is not None and found.latency.total_ms.median == 2
    assert found.latency.cold_start_ms is not None and found.latency.cold_start_ms.n == 3
    assert (found.peak_rss_mib, found.page_memory_mib) == (None, 80.5)
    assert found.conditions.hidden_s == 2.5
    assert found.python_runtime == results.SameAsPython(equal=10, asked=10, pictures_equal=10, inputs_equal=10)
    assert found.sustained is not None and found.sustained.speed_left == 0.8
    assert [case.skipped is None for case in found.cases] == [True, False, True, True]
    device = found.device
    assert (device.kind, device.address, device.name, device.os) == (
        "browser", "browser", "Chromium on Linux", "Linux 6.1",
    )  # fmt: skip
    assert device.browser is not None and device.browser.brands == ("Chromium 150", "Not)A;Brand 8")
    assert found.unmeasured[0].startswith("energy")
    rows = [json.loads(line) for line in (out.parent / str(found.answers)).read_text().splitlines()]
    by_id = {question.id: question for question in suite().questions}
    assert len(rows) == len({row["id"] for row in rows}) == 10
    assert all(row["score"] == (row["text"] == by_id[row["id"]].answer) for row in rows)
    assert (card["accuracy"]["right"], card["same"]) == (5, {"equal": 10, "asked": 10, "inputs_equal": 10})
    assert card["hidden_s"] == 2.5 and card["stages"]["total_ms"] == {"median": 2, "p90": 2.8, "n": 3}
    phases = [step.phase for step in at.steps]
    assert phases[0] == "waiting for a device to open the link" and phases[-1] == "comparing"
    assert [step.right for step in at.steps if step.phase == "accuracy"][-1] == 5
    assert not any(question.answer and question.answer in str(at.notes) for question in suite().questions)


def test_other_answers_pixels_and_inputs_are_counted_as_such(out: Path) -> None:
    at = host(out)
    with opened(at) as page:
        job = page.job()
        answers = page.answers

        def wrong(*asked: Any) -> list[dict[str, str]]:
            rows = answers(*asked)
            rows[0]["text"] += "!"
            rows[0]["inputs_hash"] = rows[-1]["inputs_hash"] = rows[-1]["pixels_hash"] = "00000000"
            return rows

        page.answers = wrong  # type: ignore[method-assign]
        page.measure(job)
    # three groups of answers: 3, 4 and 3
    assert at.measurement().python_runtime == results.SameAsPython(equal=7, asked=10, pictures_equal=7, inputs_equal=4)


def test_without_a_suite_nothing_is_scored(out: Path) -> None:
    at = Host(bundle(), None, out)
    with opened(at) as page:
        job = page.job()
        assert (job["scored"], job["compared"], job["exactly"], job["questions"]) == (False, 0, 16, 3)
        page.measure(job)
    found = at.measurement()
    assert found.accuracy is None and found.suite is None and found.python_runtime is None


@pytest.mark.parametrize(
    "where, lost_answer",
    [
        *((("choice", 0), False), (("cold", 1), False), (("facts", 0), False), (("latency", 0), False)),
        *((("answers", 0), False), (("case", 2), False), (("sustained", 0), False), (("answers", 7), False)),
        *((("done", 0), False), (("cold", 1), True), (("latency", 0), True), (("answers", 7), True)),
        (("done", 0), True),
    ],
    ids=str,
)
def test_a_page_that_was_closed_goes_on_when_it_is_opened_again(
    out: Path, where: tuple[str, int], lost_answer: bool
) -> None:
    """Closed before an upload reached the host, or after it did and before the page heard of it."""
    at = host(out, cases=True, sustain_s=10)
    with opened(at) as page:
        job = page.job()
        if lost_answer:
            sent = page.raw

            def raw(*upload: Any) -> Any:
                response = sent(*upload)
                if upload[1:3] == where:
                    raise Vanished
                return response

            page.raw = raw  # type: ignore[method-assign]
        else:
            page.vanish = lambda *upload: upload == where
        with pytest.raises(Vanished):
            page.measure(job)
        with reloaded(page) as again:
            state = again.state()
            if where == ("done", 0) and lost_answer:
                assert "job" not in state or state["job"]["done"]["answers"] == 10
            else:
                again.measure(again.job())
    found = at.measurement()
    assert found.latency.cold_start_ms is not None and found.latency.cold_start_ms.n == 3
    assert len(found.cases) == 4 and found.sustained is not None
    assert found.accuracy is not None and (found.accuracy.right, found.accuracy.asked) == (5, 10)
    assert found.python_runtime is not None and found.python_runtime.inputs_equal == 10


def test_rows_that_come_twice_count_once(out: Path) -> None:
    at = host(out)
    with opened(at) as page:
        job = page.job()
        send = page.send

        def twice(job: dict[str, Any], kind: str, index: int, value: Any) -> None:
            if kind == "answers" and index:  # some of them are there, and then all of them
                send(job, kind, index - 1, [{"text": "another answer"}, *value])
            send(job, kind, index, value)
            send(job, kind, index, value)

        page.send = twice  # type: ignore[method-assign]
        page.measure(job)
    found = at.measurement()
    assert found.accuracy is not None and (found.accuracy.right, found.accuracy.asked) == (5, 10)
    assert found.python_runtime is not None and found.python_runtime.equal == 10
    assert found.latency.cold_start_ms is not None and found.latency.cold_start_ms.n == 3


@follows("desk.py: measuring {} was stopped on the device; run the same command again to go on")
def test_a_host_that_was_stopped_goes_on_where_it_was(out: Path) -> None:
    first = host(out)
    with opened(first) as page:
        job = page.job()
        page.vanish = lambda kind, index: (kind, index) == ("answers", 7)
        with pytest.raises(Vanished):
            page.measure(job)
        page.post("/api/stop", {"job": job["id"]})
        state = page.until(lambda state: state["phase"] == "ended")
        assert "stopped on the device" in state["message"] and state["cards"] == []
    assert "stopped on the device" in str(first.ended()) and isinstance(first.ended(), Unfinished)
    with (raw_of(out) / "answers.jsonl").open("ab") as file:
        file.write(b'{"id": "torn')
    second = host(out)
    with opened(second) as page:
        job = page.job()
        assert job["done"]["answers"] == 7 and job["done"]["cold"] == 3 and job["done"]["latency"]
        page.measure(job)
    found = second.measurement()
    assert found.accuracy is not None and (found.accuracy.right, found.accuracy.asked) == (5, 10)
    third = host(out)  # nothing is left to measure: the page only hears so
    with opened(third) as page:
        assert page.until(lambda state: state["phase"] == "ended")["cards"] == []
    assert third.measurement() == found


@follows("{} has no WebGPU to run {} with; measure it with wasm")
def test_without_webgpu_wasm_measures(out: Path) -> None:
    first = host(out, backend="webgpu")
    with opened(first):
        assert "measure it with wasm" in str(first.ended())
    second = host(out, backend="wasm")
    with opened(second) as page:
        page.measure(page.job())
    assert second.measurement().runtime == "wasm"


def test_another_device_does_not_go_on_with_it(out: Path) -> None:
    first = host(out)
    with opened(first) as page:
        job = page.job()
        page.vanish = lambda kind, index: kind == "facts"
        with pytest.raises(Vanished):
            page.measure(job)
        page.post("/api/failed", {"job": job["id"], "message": "no memory is left\u202e\x1b[31m for it"})
    assert str(first.ended()).endswith("in the browser stopped: no memory is left [31m for it")
    second = host(out)
    with opened(second, cores=8) as page:
        assert page.job()["done"]["cold"] == 0
        page.post("/api/stop", {"job": page.job()["id"]})
    second.ended()


def test_a_stop_on_the_device_stops_all_that_is_left(out: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(bundle(), other)
    notes: list[str] = []
    outcome: list[Any] = []

    def run() -> None:
        subjects = [Subject("one", "exported", bundle()), Subject("two", "exported", other)]
        try:
            bench(subjects, suite(), Settings(port=0, cases=False), device="browser", out=out, on_note=notes.append)
        except Unfinished as error:
            outcome.append(str(error))

    at = Host.__new__(Host)
    at.notes, at.result = notes, None
    thread = threading.Thread(target=run)
    thread.start()
    with opened(at) as page:
        page.post("/api/stop", {"job": page.job()["id"]})
        assert page.until(lambda state: state["phase"] != "measuring")["phase"] in ("finished", "ended")
        thread.join(20)
    assert "one was stopped on the device" in outcome[0] and "two was not measured" in outcome[0]


def test_a_page_that_stays_away_is_said_and_then_given_up(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "SILENT_S", 0.3)
    monkeypatch.setattr(desk, "LOST_S", 1.0)
    at = host(out)
    with opened(at) as page:
        job = page.job()
        time.sleep(0.5)
        page.progress(job, "latency", 1, 3)
        time.sleep(0.1)
    assert isinstance(at.ended(), Lost) and "run the same command again" in str(at.ended())
    gone = [note for note in at.notes if "closed or its device is out of reach" in note]
    assert len(gone) == 2 and "the page is back" in at.notes


@pytest.mark.parametrize("when", ["waiting", "measuring"])
def test_ctrl_c_ends_it_and_the_page_hears_so(out: Path, when: str) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    try:
        _interrupted(out, when)
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupted(out: Path, when: str) -> None:
    heard: list[dict[str, Any]] = []
    notes: list[str] = []

    def device() -> None:
        at = Host.__new__(Host)
        at.notes, at.result = notes, None
        if when == "waiting":
            assert at.url
            time.sleep(0.1)
            _thread.interrupt_main()
            return
        with opened(at) as page:
            page.job()
            _thread.interrupt_main()
            heard.append(page.until(lambda state: state["phase"] == "ended"))

    thread = threading.Thread(target=device)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        tiny = Subject("tiny", "exported", bundle())
        bench([tiny], suite(), Settings(port=0), device="browser", out=out, on_note=notes.append)
    thread.join(20)
    if when == "measuring":
        assert heard[0]["message"] == "Measuring was stopped at the computer."
