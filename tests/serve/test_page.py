"""The page in a real browser: a person's way through it, and that nothing said becomes markup.

Needs Debian's `chromium` and `chromium-driver`; skipped where they are missing.
"""

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from masters_edge.runtime import Student
from tests import tiny
from tests.serve.server import Server, png, serving

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver")


class Browser:
    """What a person does with the page, and what stands on it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def __getitem__(self, name: str):
        return self.driver.find_element(By.ID, name)

    def until(self, true, seconds: float = 60) -> None:
        WebDriverWait(self.driver, seconds, poll_frequency=0.05).until(lambda _: true())

    def answer(self, question: str) -> str:
        """Type a question, press Enter, wait for the answer's end."""
        self["question"].clear()
        self["question"].send_keys(question, Keys.ENTER)
        self.until(lambda: self["figures"].is_displayed() or self["problem"].is_displayed())
        assert not self["problem"].is_displayed(), self["problem"].text
        return self.driver.execute_script("return document.getElementById('answer').textContent")

    def hand_over(self, event: str, data: bytes) -> None:
        """Drop or paste a picture."""
        self.driver.execute_script(
            """const bytes = Uint8Array.from(atob(arguments[1]), (c) => c.charCodeAt(0)), all = new DataTransfer();
            all.items.add(new File([bytes], "handed over.png", {type: "image/png"}));
            document.dispatchEvent(arguments[0] === "drop"
              ? new DragEvent("drop", {dataTransfer: all, bubbles: true, cancelable: true})
              : new ClipboardEvent("paste", {clipboardData: all, bubbles: true, cancelable: true}));""",
            event,
            base64.b64encode(data).decode(),
        )
        self.until(lambda: "handed over.png" in self["picture-facts"].text)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--use-fake-device-for-media-stream")  # a camera that shows a test picture
    options.add_argument("--use-fake-ui-for-media-stream")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield Browser(driver)
    driver.quit()


@pytest.mark.wide
@needs_browser
def test_a_persons_way(browser: Browser, server: Server, student: Student, tmp_path: Path) -> None:
    image = tiny.picture(70, 51, seed=3)
    hostile = "<img src=x onerror=alert(1)>"
    (tmp_path / f"{hostile}.png").write_bytes(png(image))
    browser.driver.get(server.url)
    browser.until(lambda: server.model in browser["title"].text)
    assert "smolvlm as onnx, fp32" in browser["facts"].text and "1 thread" in browser["facts"].text

    browser["ask"].click()
    assert browser["problem"].text == "Choose a picture first."
    browser["file"].send_keys(str(tmp_path / f"{hostile}.png"))
    browser.until(lambda: "70 × 51" in browser["picture-facts"].text)
    assert hostile in browser["picture-facts"].text and hostile in browser["preview"].get_attribute("alt")
    for question in ("what is in this image?", hostile):
        assert browser.answer(question) == student.answer(image, question).text
    assert browser["answer"].get_attribute("aria-busy") == "false"
    assert re.fullmatch(r"[\d.]+ m?s", browser["ttft"].text) and "tokens/s" in browser["rate"].text
    remembered = browser["list"].find_elements(By.TAG_NAME, "b")
    assert [item.text for item in remembered] == [hostile, "what is in this image?"]
    assert len(browser.driver.find_elements(By.TAG_NAME, "img")) == 1  # the preview: nothing became markup

    other = tiny.picture(40, 60, seed=8)
    for event in ("drop", "paste"):
        browser.driver.refresh()
        browser.until(lambda: server.model in browser["title"].text)
        browser.hand_over(event, png(other))
        assert browser.answer("what?") == student.answer(other, "what?").text

    browser["question"].clear()
    browser["question"].send_keys("what is it? " * 100, Keys.ENTER)
    browser.until(lambda: browser["problem"].is_displayed())
    assert "the student reads 512" in browser["problem"].text
    complaints = [entry["message"] for entry in browser.driver.get_log("browser")]
    assert all("400 (Bad Request)" in one for one in complaints), complaints  # of the policy, or of a script


@needs_browser
def test_the_camera(browser: Browser, server: Server) -> None:
    browser.driver.get(server.url)
    browser.until(lambda: server.model in browser["title"].text)
    browser["camera"].click()
    browser.until(lambda: browser.driver.execute_script("return document.getElementById('video').videoWidth") > 0)
    browser["take"].click()
    browser.until(lambda: browser["picture-facts"].text.startswith("photo, "))
    assert not browser["video"].is_displayed() and browser["preview"].is_displayed()
    assert browser.answer("what is in this image?")


@needs_browser
def test_the_key_is_typed(browser: Browser, bundle: Path, tmp_path: Path) -> None:
    tiny.picture().save(tmp_path / "p.png")
    with serving(bundle, "--api-key", "sesame") as locked:
        browser.driver.get(locked.url)
        browser.until(lambda: browser["key-form"].is_displayed())
        browser["key"].send_keys("wrong", Keys.ENTER)
        browser.until(lambda: "not this server's key" in browser["facts"].text)
        browser["key"].clear()
        browser["key"].send_keys("sesame", Keys.ENTER)
        browser.until(lambda: locked.model in browser["title"].text)
        assert not browser["key-form"].is_displayed()
        browser["file"].send_keys(str(tmp_path / "p.png"))
        browser.until(lambda: "64 × 48" in browser["picture-facts"].text)
        assert browser.answer("what?")


@needs_browser
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_hangs_over_the_edge(browser: Browser, server: Server, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.driver.get(server.url)
    browser.until(lambda: server.model in browser["title"].text)
    assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= width
    buttons = browser.driver.execute_script(
        "return [...document.querySelectorAll('button')].filter((b) => b.offsetParent).map((b) => b.offsetHeight)"
    )
    assert buttons and min(buttons) >= 44  # a thumb finds them
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_asks_nothing_of_anybody_else(server: Server) -> None:
    page = httpx.get(f"{server.url}/")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert not re.search(r'(?:src|href|action)="(?!data:,")', page.text) and "://" not in page.text
    assert "innerHTML" not in page.text and page.headers["x-content-type-options"] == "nosniff"
