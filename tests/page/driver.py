"""Debian's Chromium without a screen, as a laptop or as a phone: what a person sees and does, and what it asked for.

`chromium(...)` gives a `Browser`, whose `requests()` names every URL that the page asked for. A page's workers are not
in that log: `logged_urls` reads them too, once the browser has ended. So a test can fail on any request to another
origin.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver")

DESKTOP = {"width": 1200, "height": 900, "deviceScaleFactor": 1, "mobile": False}
PHONE = {"width": 360, "height": 780, "deviceScaleFactor": 2, "mobile": True}
# WebGPU on the processor: slow, and there without a graphics processor.
SWIFTSHADER = (
    "--enable-unsafe-webgpu",
    "--enable-features=Vulkan",
    "--use-webgpu-adapter=swiftshader",
    "--use-vulkan=swiftshader",
)
# What Chromium itself would fetch: of no page.
_QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
OWN_SCHEMES = ("blob", "data", "about", "devtools", "chrome", "chrome-extension", "chrome-untrusted")


class Browser:
    """One Chromium with one tab. `browser["stop"]` is the element with that id."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self._asked: list[dict[str, Any]] = []

    def __getitem__(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def text(self, name: str) -> str:
        """An element's text as it stands, shown or not."""
        return str(self.js("return document.getElementById(arguments[0])?.textContent ?? ''", name)).strip()

    def shown(self, name: str) -> bool:
        return bool(self.driver.find_elements(By.ID, name)) and self[name].is_displayed()

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait_js(self, script: str, *arguments: Any, seconds: float = 60) -> Any:
        """The value of an `async` function's body."""
        self.driver.set_script_timeout(seconds)
        wrapped = f"""const done = arguments[arguments.length - 1], given = [...arguments].slice(0, -1);
            (async (...given) => {{ {script} }})(...given).then(
              (value) => done([true, value]), (error) => done([false, String(error.stack ?? error)]));"""
        worked, value = self.driver.execute_async_script(wrapped, *arguments)
        assert worked, value
        return value

    def until(self, true: Callable[[], Any], seconds: float = 60, what: str = "") -> Any:
        """What `true` gives once it is true. What the page shows is part of the failure's message."""
        try:
            return WebDriverWait(self.driver, seconds, poll_frequency=0.05).until(lambda _: true())
        except Exception as error:
            raise AssertionError(f"{what or 'waited'} for {seconds} s ({error}); the page says:\n{self.body}") from None

    @property
    def body(self) -> str:
        return str(self.js("return document.body.innerText"))

    def view(self, size: dict[str, Any], dark: bool = False) -> None:
        """A laptop's or a phone's screen, in light or dark."""
        self.command("Emulation.setDeviceMetricsOverride", size)
        self.command("Emulation.setTouchEmulationEnabled", {"enabled": size["mobile"]})
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", {"features": [scheme]})

    def offline(self, lost: bool) -> None:
        conditions = {"offline": lost, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.command("Network.emulateNetworkConditions", conditions)

    def slow(self, bytes_per_s: int) -> None:
        """A slow network, -1 for one without a limit."""
        conditions = {"offline": False, "latency": 0, "downloadThroughput": bytes_per_s, "uploadThroughput": -1}
        self.command("Network.emulateNetworkConditions", conditions)

    def command(self, name: str, arguments: dict[str, Any]) -> Any:
        return self.driver.execute_cdp_cmd(name, arguments)

    def complaints(self) -> list[str]:
        """What stands in the console since the last call: errors, and what the policy forbade."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The URLs asked for since the last call, but for the browser's own."""
        self._read_log()
        asked, self._asked = self._asked, []
        return [one["url"] for one in asked if urlsplit(one["url"]).scheme not in OWN_SCHEMES]

    def posted(self, path: str) -> list[Any]:
        """What was sent there as JSON since the last call of `requests`."""
        self._read_log()
        sent = [one for one in self._asked if one["method"] == "POST" and urlsplit(one["url"]).path == path]
        return [json.loads(one["postData"]) for one in sent]

    def _read_log(self) -> None:
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._asked.append(message["params"]["request"])

    def overhang(self) -> list[str]:
        """What hangs over the right edge, by tag and id; nothing where the page fits."""
        return self.js(
            """const edge = document.documentElement.clientWidth + 0.5;
            if (document.documentElement.scrollWidth <= edge) return [];
            return [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > edge)
              .map((e) => `${e.tagName.toLowerCase()}#${e.id}.${e.className}`);"""
        )

    def small_targets(self) -> list[str]:
        """What a thumb misses: shown buttons and fields less than 44 pixels high."""
        return self.js(
            """return [...document.querySelectorAll("button, select, textarea, input:not(.away)")]
              .filter((e) => e.checkVisibility() && e.offsetHeight < 44).map((e) => `${e.id} ${e.offsetHeight}`);"""
        )


@contextmanager
def chromium(*arguments: str, profile: Path | None = None, net_log: Path | None = None) -> Iterator[Browser]:
    """A Chromium of its own: nothing of another one is known to it, unless both use the same `profile` folder.

    `net_log`: a file that says of every request of the whole browser, workers included; read it after the end with
    `logged_urls`.
    """
    own = Path(tempfile.mkdtemp(prefix="masters-edge-chromium-")) if profile is None else profile
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in (*_QUIET, *arguments, f"--user-data-dir={own}"):
        options.add_argument(argument)
    options.add_argument("--use-fake-device-for-media-stream")  # a camera that shows a test picture
    options.add_argument("--use-fake-ui-for-media-stream")
    if net_log is not None:
        options.add_argument(f"--log-net-log={net_log}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
        if profile is None:
            shutil.rmtree(own, ignore_errors=True)


def logged_urls(net_log: Path) -> set[str]:
    """What pages and their workers asked for, from a finished Chromium's log. Its own requests have no origin."""
    events = [event.get("params", {}) for event in json.loads(net_log.read_text())["events"]]
    asked = {event["url"] for event in events if event.get("initiator", "not an origin") != "not an origin"}
    return {url for url in asked if urlsplit(url).scheme not in OWN_SCHEMES}
