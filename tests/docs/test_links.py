"""Links and anchors of every page lead somewhere, and paths of this repository named in them exist."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import ROOT, Page, pages

# A path that begins with one of these is one of this repository, unless something stands in it for a name of one's own.
ROOMS = ("masters_edge/", "export/", "benchmarks/", "tests/", "docs/", "recipes/")
OPEN = re.compile(r"[<>*{}$\s]|\.\.\.|NAME")


def broken(page: Page) -> list[str]:
    """The page's links that lead nowhere, each with why."""
    found = []
    for target in page.links():
        split = urlsplit(target)
        if split.scheme in ("http", "https"):
            continue
        if split.scheme:
            found.append(f"{target}: what is {split.scheme}?")
            continue
        file = (page.path.parent / unquote(split.path)).resolve()
        if not file.exists():
            found.append(f"{target}: there is no such file")
        elif split.fragment and split.fragment not in (Page.read(file) if split.path else page).anchors():
            found.append(f"{target}: there is no such heading")
    return found


def lost(page: Page) -> list[str]:
    """Paths of this repository that the page names, and that aren't there."""
    named = [code for code in page.codes() if code.startswith(ROOMS) and not OPEN.search(code)]
    return [code for code in named if not (ROOT / code.partition("::")[0]).exists()]


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    assert not broken(Page.read(path))


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_that_are_named_exist(path: Path) -> None:
    assert not lost(Page.read(path))


def test_what_is_broken_is_found() -> None:
    made_up = """# One heading: `with` code

    [here](#one-heading-with-code) [page](export.md) [its part](export.md#targets) [web](https://example.org/none)
    [a](#nowhere) [b](no-such-page.md) [c](export.md#no-such-part) <img src="pictures/none.png"> ![d](e.png)
    `export/targets/onnx.py` `export/targets/onxx.py` `export/targets/NAME.py`
    """.replace("\n    ", "\n")
    page = Page(ROOT / "docs" / "made-up.md", made_up)
    assert [link.partition(":")[0] for link in broken(page)] == [
        "#nowhere",
        "no-such-page.md",
        "export.md#no-such-part",
        "pictures/none.png",
        "e.png",
    ]
    assert lost(page) == ["export/targets/onxx.py"]


def test_readme_stays_short() -> None:
    assert len(Page.read(ROOT / "README.md").text.splitlines()) <= 150
