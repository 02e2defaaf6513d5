"""Browsers in results and reports: their names, what spoils their figures, and that nothing they say becomes markup."""

from pathlib import Path
from typing import Any

import pytest

from masters_edge.benchmarks import results
from masters_edge.benchmarks.report import browsers, compare, gather, notes, report
from masters_edge.benchmarks.report.budget import choose, parse
from masters_edge.benchmarks.results import Browser, Conditions, Device, Measurement, Results, SameAsPython
from tests.benchmarks import sample

ANDROID = (
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36"
)
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 "
    "Mobile/15E148 Safari/604.1"
)
HOSTILE = '<script>alert("x")</script>|`*_'


def browser(**changes: Any) -> Browser:
    return Browser(**{"user_agent": ANDROID, "secure_context": True, "isolated": True} | changes)


def measured(found: Browser, kind: str = "browser", **changes: Any) -> Measurement:
    device = Device(
        kind=kind,
        address=kind,
        name="Pixel 8",
        model="Pixel 8",
        cpu="Google Tensor G3" if kind == "adb" else "not told by the browser",
        cores=8,
        logical_cores=8,
        os="Android 15",
        architecture="arm",
        browser=found,
    )
    same = SameAsPython(equal=49, asked=50, pictures_equal=50, inputs_equal=50)
    fields = {
        "device": device,
        "runtime": "wasm",
        "peak_rss_mib": None,
        "page_memory_mib": 95.5,
        "python_runtime": same,
    }
    return sample.measurement("student int4", **fields | changes)


def written(folder: Path, *measurements: Measurement) -> Path:
    results.write(folder / "results.json", Results(measurements=measurements))
    return folder


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (
            browser(brands=("Not?A_Brand 24.0.0.0", "Chromium 142.0.1.2", "Google Chrome 142.0.1.2")),
            "Chrome 142",
        ),
        (browser(brands=("Chromium 142", "Not;A=Brand 8")), "Chromium 142"),
        (browser(), "Chrome 142"),
        (browser(user_agent=IPHONE), "Safari 18"),
        (browser(user_agent=IPHONE.replace("Version/18.5", "CriOS/142.0.1")), "Chrome 142"),
        (browser(user_agent="Mozilla/5.0 (Android 15; Mobile; rv:145.0) Gecko/145.0 Firefox/145.0"), "Firefox 145"),
        (browser(user_agent="curl"), "a browser of unknown version"),
    ],
)
def test_a_browser_is_called_what_it_calls_itself(found: Browser, name: str) -> None:
    assert " ".join(found.name) == name


def test_two_browsers_of_a_phone_are_two_devices_and_an_update_is_none() -> None:
    chrome, firefox = measured(browser()), measured(browser(user_agent="Gecko/145.0 Firefox/145.0"))
    updated = measured(browser(user_agent=ANDROID.replace("142", "143")))
    known = Results().with_measurement(chrome).with_measurement(firefox)
    assert len(known.measurements) == 2
    assert known.with_measurement(updated).measurements == (updated, firefox)
    assert gather.device_key(chrome.device) == gather.device_key(updated.device) != gather.device_key(firefox.device)


def test_the_report_says_what_a_browser_told(tmp_path: Path) -> None:
    folder = written(tmp_path, sample.measurement(), measured(browser(memory_gib=8)), measured(browser(), kind="adb"))
    files = report([folder], None, tmp_path / "report")
    page, text = files.html.read_text(), files.md.read_text()
    for said in (page, text):
        assert "Pixel 8, Chrome 142" in said and "Pixel 8 (Google Tensor G3), Chrome 142, over adb" in said
        assert "49 of 50 answers; pictures decoded to the same pixels: 50 of 50" in said
        assert "8 GiB or more" in said and "ONNX Runtime Web, WASM" in said and "In a browser, a Web Worker" in said
        assert "out of sight for" not in said and "Python | not told" not in said
    assert "equal to the Python runtime, %" in text and "98.0" in text and "95.5" in text
    assert ANDROID in files.csv.read_text()


def test_a_page_out_of_sight_is_said_wherever_figures_stand(tmp_path: Path) -> None:
    hidden = measured(browser(), conditions=Conditions(hidden_s=12.3))
    seen = measured(browser(), conditions=Conditions(hidden_s=0.1))
    assert browsers.is_hidden(hidden) and not browsers.is_hidden(seen)
    found = gather.gather([written(tmp_path / "hidden", hidden)])
    assert "out of sight for up to 12 s" in (notes.doubts(found.entries) or "")
    assert notes.doubts(gather.gather([written(tmp_path / "seen", seen)]).entries) is None
    files = report([tmp_path / "hidden"], None, tmp_path / "report")
    assert "out of sight for up to 12 s" in files.html.read_text()
    both = compare.compare(gather.gather([tmp_path / "seen"]), found)
    assert any("out of sight" in line for line in both.remarks)


def test_no_figure_of_memory_is_no_memory_within_a_budget(tmp_path: Path) -> None:
    found = gather.gather([written(tmp_path, measured(browser()))])
    verdicts = choose(found, parse("memory=1000MiB"))
    assert not any(verdict.fits for verdict in verdicts)


def test_what_a_browser_says_of_itself_stays_text(tmp_path: Path) -> None:
    m = measured(browser(user_agent=HOSTILE, webgpu=HOSTILE, platform=HOSTILE, screen=HOSTILE))
    m = m.model_copy(update={"device": m.device.model_copy(update={"name": HOSTILE, "model": HOSTILE, "os": HOSTILE})})
    files = report([written(tmp_path, m)], None, tmp_path / "report")
    assert "<script>alert" not in files.html.read_text() and "&lt;script&gt;alert" in files.html.read_text()
    assert "<script>" not in files.md.read_text()
