"""The site as `make docs` builds it: strict, complete, drawn, and asking nobody for anything."""

import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from masters_edge.benchmarks.page import assets
from tests.docs.pages import ROOT, Page
from tests.page.driver import DESKTOP, PHONE, Browser, chromium, needs_browser

pytest.importorskip("sphinx", reason="needs the extra `docs`, from Python 3.11 on")

BROKEN = "\n[made up](no-such-page.md)\n"


def copied(folder: Path) -> Path:
    """The sources of the site in `folder`: docs/ and the pages that it takes in from above."""
    shutil.copytree(ROOT / "docs", folder / "docs")
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    return folder / "docs"


def build(sources: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(out / ".doctrees")]
    return subprocess.run([*command, str(sources), str(out)], capture_output=True, text=True)


@pytest.mark.wide
def test_a_broken_link_and_nothing_else_fails_the_build(tmp_path: Path) -> None:
    sources = copied(tmp_path)
    with (sources / "report.md").open("a", encoding="utf-8") as page:
        page.write(BROKEN)
    done = build(sources, tmp_path / "site")
    assert done.returncode != 0
    warned = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert len(warned) == 1 and "report.md" in warned[0] and "no-such-page.md" in warned[0], done.stderr
    built = {path.relative_to(tmp_path / "site").with_suffix("") for path in (tmp_path / "site").rglob("*.html")}
    assert {path.relative_to(sources).with_suffix("") for path in sources.rglob("*.md")} <= built


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("docs")
    sources = copied(folder)
    try:
        runpy.run_path(str(ROOT / "docs" / "mermaid.py"))["fetch"](folder / "build" / "mermaid")
    except assets.CannotFetch as error:
        pytest.skip(f"Mermaid is needed: {error}")
    done = build(sources, folder / "site")
    assert done.returncode == 0, done.stderr
    yield folder / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.mark.slow
@needs_browser
def test_diagrams_are_drawn(site: Path, browser: Browser) -> None:
    sources = {path: len(list(Page.read(path).blocks("mermaid"))) for path in (ROOT / "docs").rglob("*.md")}
    for path, diagrams in sources.items():
        if not diagrams:
            continue
        browser.driver.get((site / path.relative_to(ROOT / "docs").with_suffix(".html")).as_uri())
        browser.until(lambda: not browser.js("return document.querySelector('.mermaid-source')"), what=path.name)
        assert browser.js("return document.querySelectorAll('.mermaid-picture svg').length") == diagrams
    assert any(sources.values()) and not browser.complaints()


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("page", ["index", "recipe", "commands", "status", "results/ablation", "architecture"])
def test_pages_fit_the_screen_and_ask_nobody(site: Path, browser: Browser, page: str, screen: dict) -> None:
    browser.view(screen)
    browser.requests()
    browser.driver.get((site / f"{page}.html").as_uri())
    assert browser.js("return document.documentElement.scrollWidth") <= screen["width"]
    assert [url for url in browser.requests() if not url.startswith("file:")] == []
    assert not browser.complaints()
