"""Pictures of the page for the docs: a real run in headless Chromium, on a phone's and a laptop's screen.

    python recipes/browser/screenshots.py runs/demo/bundles/onnx-int4 docs/pictures

Measures the bundle on 300 questions of easy-VQA twice, waits for each moment, and writes page-*.png. Needs Debian's
chromium and chromium-driver.
"""

import argparse
import io
import re
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from masters_edge.benchmarks.measure import Subject
from masters_edge.benchmarks.suites import load
from tests.page.conftest import EAGER, Bench
from tests.page.driver import DESKTOP, PHONE, Browser, chromium

COLORS = 64  # of a picture: text and a few colours, so that a file stays small


def shoot(browser: Browser, out: Path, width: int, height: int, scale: float, dark: bool, top: str | None) -> None:
    """What a screen of this size shows with the element `top` at its upper edge."""
    phone = width < 500
    browser.view({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}, dark)
    browser.js(
        """const top = arguments[0] && document.getElementById(arguments[0]);
        scrollTo(0, top ? top.getBoundingClientRect().top + scrollY - 12 : 0);""",
        top,
    )
    assert not browser.overhang() and not browser.small_targets(), out
    picture = Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB")
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(out, optimize=True)
    print(f"{out}: {picture.width}x{picture.height}, {out.stat().st_size / 1000:.0f} kB")


def at_end(browser: Browser) -> None:
    browser.until(lambda: browser.text("moment") == "Finished" and browser.shown("tryout"), 600)


def tried(browser: Browser) -> None:
    """One of the questions' pictures, asked about."""
    browser.driver.find_elements("css selector", "#examples button")[1].click()
    browser["ask"].click()
    browser.until(lambda: browser.shown("figures"))
    browser.js("document.activeElement.blur()")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    suite = load("easy-vqa").take(300)
    subjects = [Subject(given.bundle.name, "exported", given.bundle)]
    options = {"threads": given.threads, "device": "browser:Pixel"}
    with tempfile.TemporaryDirectory() as folder, chromium(EAGER, "--hide-scrollbars") as browser:
        run = Bench(subjects, suite, Path(folder, "phone", "results.json"), **options)
        browser.view(PHONE)
        browser.driver.get(run.link)
        browser.until(lambda: re.match(r"Measuring (?:9|1[0-4])\d of", browser.text("moment")), 600)
        shoot(browser, given.out / "page-phone-measuring.png", 360, 640, 2, False, None)
        at_end(browser)
        run.end()
        shoot(browser, given.out / "page-phone-result.png", 360, 780, 2, False, "results")
        shoot(browser, given.out / "page-phone-dark.png", 360, 780, 2, True, None)
        tried(browser)
        shoot(browser, given.out / "page-tryout.png", 360, 940, 2, False, "tryout")

        run = Bench(subjects, suite, Path(folder, "laptop", "results.json"), **options)
        browser.view(DESKTOP)
        browser.driver.get("about:blank")
        browser.driver.get(run.link)
        at_end(browser)
        run.end()
        tried(browser)
        shoot(browser, given.out / "page-desktop-result.png", 1040, 1420, 1, False, None)


if __name__ == "__main__":
    main()
