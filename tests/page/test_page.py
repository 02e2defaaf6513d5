"""The page in a real browser, on a laptop's and a phone's screen: real server, real runtime, the demo's student.

Needs Debian's `chromium` and `chromium-driver`, and what npm has (`benchmarks/page/assets.py`); skipped where they are
missing.
"""

import json
import re
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.keys import Keys

from masters_edge.benchmarks.measure import Subject
from masters_edge.benchmarks.page import assets
from masters_edge.benchmarks.peers import in_browser
from masters_edge.benchmarks.suites import load
from masters_edge.common.errors import UserError
from masters_edge.data.records import open_image
from masters_edge.runtime import Student
from tests import tiny
from tests.page.conftest import EAGER, Bench, benched, int4, made_later, opened
from tests.page.driver import DESKTOP, PHONE, SWIFTSHADER, Browser, chromium, logged_urls, needs_browser
from tests.serve.server import png

pytestmark = [needs_browser, pytest.mark.skipif(not assets.ready(), reason="needs what npm has")]

FACTS = {"user_agent": "another device", "secure_context": True, "isolated": True}


@pytest.fixture(scope="module")
def student() -> Student:
    return Student.load(int4(), backend="onnxruntime", threads=1)


@pytest.fixture(autouse=True)
def _in_short(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cold start is enough where they are not what is tested."""
    if request.node.originalname != "test_fifty_official_questions":
        monkeypatch.setattr(in_browser, "COLD_STARTS", 1)


def finished(browser: Browser, seconds: float = 60) -> None:
    browser.until(lambda: browser.text("moment") in ("Finished", "Stopped"), seconds, "waited for the end")
    assert browser.text("moment") == "Finished", browser.body


def complaints(browser: Browser) -> list[str]:
    """Of the policy or of a script; a browser without WebGPU says so as well."""
    return [one for one in browser.complaints() if "No available adapters" not in one]


def foreign(urls: list[str] | set[str], run: Bench) -> list[str]:
    return [url for url in urls if f"{urlsplit(url).scheme}://{urlsplit(url).netloc}" != run.origin]


def answers(run: Bench) -> list[str]:
    name = run.measurement().answers
    assert name
    return [json.loads(line)["text"] for line in (run.out.parent / name).read_text().splitlines()]


@pytest.mark.wide
@pytest.mark.parametrize("screen", ["laptop", "phone"])
def test_fifty_official_questions(screen: str, student: Student, tmp_path: Path) -> None:
    view, net_log = PHONE if screen == "phone" else DESKTOP, tmp_path / "net.json"
    suite = load("easy-vqa").take(50)
    run = benched(tmp_path, suite, cases=screen == "laptop", sustain_s=0.5 if screen == "phone" else 0)
    with chromium(EAGER, net_log=net_log) as browser:
        browser.view(view, dark=screen == "phone")
        browser.driver.get(run.link)
        browser.until(lambda: browser.shown("stop"))
        assert not browser.overhang() and not browser.small_targets()
        assert browser["bar"].get_attribute("aria-labelledby") == "moment"
        finished(browser)
        assert "#" not in browser.driver.current_url  # the token has done its work
        assert not browser.overhang() and not browser.small_targets()
        background = browser.js("return getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(20, 23, 27)" if screen == "phone" else "rgb(255, 255, 255)")
        card = browser["cards"].text
        assert "50 of 50" in card, card
        assert "inputs equal for 50" in card and "of 50 questions" in card
        assert "Web, WASM" in card and "1 thread" in card and re.search(r"[\d.]+ tokens/s", card)
        assert not foreign(browser.requests(), run) and not complaints(browser)

        found = run.measurement()
        assert found.python_runtime and found.python_runtime.equal == found.python_runtime.asked == 50
        assert found.python_runtime.inputs_equal == found.python_runtime.pictures_equal == 50
        said = dict(zip([row["id"] for row in rows(run)], answers(run)))
        for question in suite.questions:
            assert said[question.id] == student.answer(open_image(question), question.text).text, question.id
        assert found.accuracy and found.accuracy.asked == 50
        assert found.latency.total_ms and found.latency.total_ms.n == 4
        assert found.latency.cold_start_ms and found.latency.cold_start_ms.n == 3
        assert found.device.browser and found.device.browser.isolated and found.device.browser.secure_context
        assert found.page_memory_mib and found.page_memory_mib > 1
        assert found.conditions.hidden_s == 0
        if screen == "laptop":
            assert [case.name for case in found.cases if case.latency] and all(c.prompt_tokens for c in found.cases)
        else:
            assert found.sustained and found.sustained.moments
            try_it(browser, student, tmp_path)
    assert not foreign(logged_urls(net_log), run)  # its workers' requests too
    assert any(url.endswith("/worker.js") for url in logged_urls(net_log))


def rows(run: Bench) -> list[dict]:
    name = run.measurement().answers
    assert name
    return [json.loads(line) for line in (run.out.parent / name).read_text().splitlines()]


def try_it(browser: Browser, student: Student, folder: Path) -> None:
    """A file, a picture of the questions, the camera; the server has gone."""
    browser.offline(True)
    assert browser.shown("tryout")
    browser["ask"].click()
    assert browser["try-problem"].text == "Take or choose a picture first."
    image = tiny.picture(70, 51, seed=3)
    hostile = "<img src=x onerror=alert(1)>"
    (folder / f"no {hostile}.png").write_bytes(b"no picture")
    browser["file"].send_keys(str(folder / f"no {hostile}.png"))
    browser.until(lambda: browser["try-problem"].text.startswith(f"no {hostile}.png is no picture"))
    (folder / f"{hostile}.png").write_bytes(png(image))
    browser["file"].send_keys(str(folder / f"{hostile}.png"))
    browser.until(lambda: "70 × 51" in browser["picture-facts"].text)
    for question in ("what is in this image?", hostile):
        assert ask(browser, question) == student.answer(image, question).text
    assert re.fullmatch(r"[\d.]+ m?s", browser["ttft"].text) and "read" in browser["tokens"].text

    shown = browser.driver.find_elements("css selector", "#examples button")
    assert 1 <= len(shown) <= 5 and "asked about: " in (shown[0].get_attribute("aria-label") or "")
    shown[0].click()
    browser.until(lambda: "64 × 64" in browser["picture-facts"].text)
    assert shown[0].get_attribute("aria-pressed") == "true"
    asked = browser["question"].get_attribute("value")
    assert asked and ask(browser, asked)

    browser["camera"].click()
    browser.until(lambda: browser.js("return document.getElementById('video').videoWidth") > 0)
    assert not browser.overhang() and not browser.small_targets()
    browser["take"].click()
    browser.until(lambda: browser["picture-facts"].text.startswith("photo, "))
    assert ask(browser, "what?") and not complaints(browser)
    assert len(browser.driver.find_elements("tag name", "img")) == 1 + len(shown)  # nothing became markup

    browser["remove"].click()
    browser.until(lambda: "No student is kept" in browser["kept"].text)
    assert not browser.shown("tryout") and browser.wait_js("return caches.keys()") == []


def ask(browser: Browser, question: str) -> str:
    browser["question"].clear()
    browser["question"].send_keys(question, Keys.ENTER)
    done = "return document.getElementById('answer').getAttribute('aria-busy') === 'false'"
    browser.until(lambda: browser.js(done) and (browser.shown("figures") or browser.shown("try-problem")))
    assert not browser.shown("try-problem"), browser["try-problem"].text
    return str(browser.js("return document.getElementById('answer').textContent"))


@pytest.mark.wide
def test_closed_in_the_middle_and_opened_again(browser: Browser, tmp_path: Path) -> None:
    run = benched(tmp_path, load("easy-vqa").take(200))
    link = run.link
    with opened(browser, run):
        browser.until(lambda: run.steps and run.steps[-1].phase == "accuracy" and run.steps[-1].done >= 50)
        browser.driver.get("about:blank")
        before = run.steps[-1].done
        browser.requests()
        steps = len(run.steps)
        browser.driver.get(link)
        finished(browser)
        assert not {"warm-up", "latency", "choice"} & {step.phase for step in run.steps[steps:]}
        sent = [one["index"] for one in browser.posted("/api/raw") if one["kind"] == "answers"]
        assert sent == sorted(sent) and sent[0] >= 50  # no answer is asked for twice
        assert not [url for url in browser.requests() if "/bundle/" in url]  # it was here already
        assert run.measurement().accuracy.asked == 200  # type: ignore[union-attr]
        counts = [step.done for step in run.steps if step.phase == "accuracy"]
        assert counts == sorted(counts) and counts[-1] == 200 and before >= 50
        assert len({row["id"] for row in rows(run)}) == 200


@pytest.mark.wide
def test_the_network_is_lost(browser: Browser, tmp_path: Path) -> None:
    run = benched(tmp_path, load("easy-vqa").take(60), latency_questions=40)
    assert run.link  # the server is there
    browser.driver.get("about:blank")
    browser.slow(200_000)
    with opened(browser, run):
        browser.until(lambda: browser.text("moment").startswith("Downloading"))
        browser.offline(True)
        browser.until(lambda: browser.shown("lost"))
        assert "Connection lost, trying again" in browser["lost"].text
        browser.offline(False)
        browser.until(lambda: browser.text("moment").startswith("Warm-up"))
        browser.offline(True)
        browser.until(lambda: browser.shown("lost"))
        time.sleep(1)
        browser.offline(False)
        browser.until(lambda: not browser.shown("lost"))
        finished(browser)
        found = run.measurement()
        assert found.python_runtime and found.python_runtime.equal == 50
        assert len(rows(run)) == 60 and found.latency.total_ms and found.latency.total_ms.n == 40


@pytest.mark.wide
def test_in_the_background(browser: Browser, tmp_path: Path) -> None:
    run = benched(tmp_path, load("easy-vqa").take(150))
    with opened(browser, run):
        browser.until(lambda: browser.shown("stop"))
        tab = browser.driver.current_window_handle
        browser.driver.switch_to.new_window("tab")
        time.sleep(1.5)
        browser.driver.close()
        browser.driver.switch_to.window(tab)
        browser.until(lambda: browser.shown("warnings"))
        assert "in the background for" in browser["warnings"].text
        finished(browser)
        hidden_s = run.measurement().conditions.hidden_s
        assert hidden_s and 1 < hidden_s < 30
        assert "in the background" in browser["cards"].text


@pytest.mark.wide
def test_stop_and_go_on_later(browser: Browser, tmp_path: Path) -> None:
    run = benched(tmp_path, load("easy-vqa").take(200))
    with opened(browser, run):
        browser.until(lambda: run.steps and run.steps[-1].phase == "accuracy")
        browser["stop"].click()
        browser.until(lambda: browser.text("moment") == "Stopped")
        with pytest.raises(UserError, match="int4 was stopped on the device"):
            run.measurement()
        browser.until(lambda: browser.shown("tryout"))
        assert not browser.shown("stop") and "is kept" in browser["detail"].text
    again = benched(tmp_path, load("easy-vqa").take(200))
    with opened(browser, again):
        finished(browser)
        assert len(rows(again)) == 200
        assert "warm-up" not in again.phases()  # of the first run


@pytest.mark.wide
def test_a_wrong_link_and_one_used_before(browser: Browser, tmp_path: Path) -> None:
    run = benched(tmp_path)
    browser.driver.get(f"{run.link}x")
    browser.until(lambda: browser.text("moment") == "Link not known")
    assert "open the one that the terminal shows" in browser["detail"].text and not browser.shown("stop")
    token = run.link.partition("#t=")[2]
    with httpx.Client(base_url=run.origin) as first:
        first.post("/api/claim", json={"token": token, "facts": FACTS}).raise_for_status()
        browser.driver.get("about:blank")
        browser.driver.get(run.link)
        browser.until(lambda: browser.text("moment") == "Link already used")
        assert "on another device already" in browser["detail"].text and not browser.overhang()
        job = first.get("/api/state", params={"after": 1}).json()["job"]["id"]
        first.post("/api/stop", json={"job": job})
    run.end()


DIES = """
  const Real = Worker;
  window.Worker = class extends Real {
    constructor(...given) {
      super(...given);
      let heard = 0;
      this.addEventListener("message", () => {
        heard += 1;
        if (heard > 9) this.dispatchEvent(new ErrorEvent("error", {message: "out of memory"}));
      });
    }
  };
"""


@pytest.mark.wide
def test_a_worker_that_dies(browser: Browser, tmp_path: Path) -> None:
    script = browser.command("Page.addScriptToEvaluateOnNewDocument", {"source": DIES})["identifier"]
    try:
        run = benched(tmp_path)
        with opened(browser, run):
            browser.until(lambda: browser.text("moment") == "Stopped")
            with pytest.raises(UserError, match="in the browser stopped: .*no memory left") as caught:
                run.measurement()
            assert "\n" not in str(caught.value)
            assert "no memory left" in browser["problem"].text and "not measured" in browser["student-list"].text
    finally:
        browser.command("Page.removeScriptToEvaluateOnNewDocument", {"identifier": script})


PROMISES_WEBGPU = """
  const adapter = { info: { vendor: "nobody's" } };
  Object.defineProperty(navigator, "gpu", { value: { requestAdapter: async () => adapter } });
"""


@pytest.mark.wide
def test_two_students_what_is_read_out_and_webgpu_that_fails(browser: Browser, tmp_path: Path) -> None:
    subjects = [Subject("int4", "exported", int4()), Subject("later", "exported", made_later(int4()))]
    heard = """new MutationObserver(() => (window.heard ??= []).push(document.getElementById("announced").textContent))
      .observe(document.getElementById("announced"), {childList: true, characterData: true, subtree: true});"""
    script = browser.command("Page.addScriptToEvaluateOnNewDocument", {"source": PROMISES_WEBGPU})["identifier"]
    try:
        run = benched(tmp_path, subjects=subjects, backend="auto")
        with opened(browser, run):
            browser.js(heard)
            finished(browser)
            titles = [title.text for title in browser["cards"].find_elements("tag name", "h3")]
            assert titles == ["int4", "later"]
            assert browser["student-list"].text.split() == ["int4", "measured", "later", "measured"]
            assert "later answers here" in browser["tryout-says"].text
            kept = browser.wait_js("return caches.keys()")
            assert len(kept) == 1  # the first one's room was given back
            said = browser.js("return window.heard")
            assert said[-1].startswith("Finished.") and len(said) < 40  # steps, not every question
            assert {"Warm-up", "Measuring", "Answering"} <= set(said)
    finally:
        browser.command("Page.removeScriptToEvaluateOnNewDocument", {"identifier": script})
    found = run.measurement("later")
    assert found.python_runtime and found.python_runtime.equal == 12
    assert found.runtime == "wasm" and found.device.browser and found.device.browser.webgpu == "nobody's"
    assert re.fullmatch(r"WebGPU failed \(.*no WebGPU.*\): WASM is left", found.backend_reason or "")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "webgpu"])
def test_webgpu(backend: str, tmp_path: Path) -> None:
    """By SwiftShader, on the processor: slower than WASM, and the same answers."""
    run = benched(tmp_path, backend=backend)
    with chromium(EAGER, *SWIFTSHADER) as browser:
        browser.driver.get(run.link)
        finished(browser, 300)
        found = run.measurement()
        assert found.python_runtime and found.python_runtime.equal == found.python_runtime.inputs_equal == 12
        if backend == "auto":
            assert re.fullmatch(r"WASM answers in [\d.]+ ms here, WebGPU in [\d.]+ ms", found.backend_reason or "")
        assert found.runtime == ("wasm" if backend == "auto" else "webgpu")
        assert not complaints(browser)


@pytest.mark.slow
def test_a_browser_that_ends_the_page_again_and_again(tmp_path: Path) -> None:
    """As phones do to a page that has taken too much memory; they open it again by themselves."""
    run = benched(tmp_path)
    with chromium() as browser:
        for _ in range(3):
            other = browser.driver.current_window_handle
            browser.driver.switch_to.new_window("tab")
            browser.driver.get(run.link)
            browser.until(lambda: browser.shown("stop"))
            with suppress(WebDriverException):  # nobody is left to answer
                browser.command("Page.crash", {})
            browser.driver.switch_to.window(other)
        browser.driver.get(run.link)
        browser.until(lambda: browser.text("moment") == "Stopped")
        assert "ended the page three times at the same place" in browser["problem"].text
        with pytest.raises(UserError, match="too little memory for this student"):
            run.measurement()
