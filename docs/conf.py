"""The site of docs/, built by `make docs` into build/site. Nothing is fetched while it is built, or while it is read.

Pages are Markdown as code hosts show it; `NAVIGATION` says in which order somebody needs them. A page that isn't in it,
a link or an anchor that leads nowhere, and a block that doesn't parse fail the build (`sphinx-build -W`).
"""

from importlib.metadata import version as version_of
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

HERE = Path(__file__).parent

# Page, or the words for it in the margin and the page; the first one is the start page itself.
NAVIGATION = {
    "Start": ("The demo <self>", "commands", "What works today <status>"),
    "Your own data": ("data", "recipe"),
    "Export and devices": (
        "export",
        "families",
        "Core ML <coreml>",
        "A student in Python <runtime>",
        "devices",
        "report",
        "serve",
        "What an architecture would cost <preview>",
    ),
    "Method": ("method", "responses", "judge", "scaling"),
    "Evidence": (
        "The demo <results/demo>",
        "What each part is worth <results/ablation>",
        "Training <results/training>",
        "The response store <results/responses>",
        "Export <results/export>",
        "Runtimes <results/runtime>",
        "Browsers <results/browser>",
    ),
    "How it is built": ("architecture", "contributing", "security", "changelog"),
}

project = "masters-edge"
version = release = version_of("masters-edge")
author = copyright = "the masters-edge authors"
language = "en"

extensions = ["myst_parser"]
myst_heading_anchors = 4  # as code hosts make them
myst_enable_extensions = ["html_image"]
myst_fence_as_directive = ["mermaid"]

html_theme = "furo"
html_title = "masters-edge"
html_static_path = ["_static", *(str(folder) for folder in [HERE.parent / "build" / "mermaid"] if folder.is_dir())]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
pygments_style, pygments_dark_style = "default", "monokai"


class Mermaid(Directive):
    """A fenced block that says `mermaid`: its source stands in the page, and Mermaid draws it there.

    The script is what `make docs` fetched into build/mermaid; without it the source is what a reader sees.
    """

    has_content = True

    def run(self) -> list[nodes.Node]:
        text = "\n".join(self.content)
        return [nodes.container("", nodes.literal_block(text, text, language="text"), classes=["mermaid-source"])]


def _order(app: Sphinx, page: str, source: list[str]) -> None:
    """The start page gets the navigation, so that no page needs markup of Sphinx's own."""
    if page == "index":
        for caption, pages in NAVIGATION.items():
            entries = "\n".join(pages)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"


def _draw(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Mermaid's megabytes come with the pages that have a diagram, and with no other."""
    if doctree is not None and any("mermaid-source" in node["classes"] for node in doctree.findall(nodes.container)):
        app.add_js_file("mermaid.min.js")
        app.add_js_file("diagrams.js")


def setup(app: Sphinx) -> None:
    app.add_directive("mermaid", Mermaid)
    app.connect("source-read", _order)
    app.connect("html-page-context", _draw)
