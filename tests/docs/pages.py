"""The Markdown that people read, cut into what can be checked: links, headings, fenced blocks, code in sentences.

In: README.md, CONTRIBUTING.md, SECURITY.md, CHANGELOG.md, docs/ and the READMEs below recipes/. markdown-it reads them
as code hosts and the site do.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
_PARSER = MarkdownIt("commonmark").enable("table")


def pages() -> list[Path]:
    """Every page, README first."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
    return [*top, *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "recipes").rglob("README.md"))]


@dataclass(frozen=True)
class Page:
    """A page's text, where it lies, and how it parses."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> "Page":
        return cls(path, path.read_text(encoding="utf-8"))

    @property
    def name(self) -> str:
        """Its path in the repository, for messages."""
        return self.path.relative_to(ROOT).as_posix() if self.path.is_relative_to(ROOT) else self.path.name

    def tokens(self) -> list[Token]:
        return _parsed(self.text)

    def links(self) -> Iterator[str]:
        """Where its links lead and its pictures come from, in Markdown and in HTML."""
        for token in self._inline():
            for key in ("href", "src"):
                if (target := token.attrGet(key)) is not None:
                    yield str(target)
            if token.type in ("html_inline", "html_block"):
                yield from _Html.targets(token.content)

    def anchors(self) -> set[str]:
        """The anchors of its headings: lower case, hyphens for spaces, no punctuation, a number where one repeats."""
        found: list[str] = []
        tokens = self.tokens()
        for opening, inline in zip(tokens, tokens[1:]):
            if opening.type != "heading_open":
                continue
            words = "".join(t.content for t in inline.children or [] if t.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
            found.append(slug if (again := found.count(slug)) == 0 else f"{slug}-{again}")
        return set(found)

    def blocks(self, *languages: str) -> Iterator[str]:
        """Blocks of code whose fence names one of the languages; "" is a block without one."""
        for token in self.tokens():
            if token.type in ("fence", "code_block") and token.info.strip() in languages:
                yield token.content

    def codes(self) -> Iterator[str]:
        """Code inside sentences and tables."""
        for token in self._inline():
            if token.type == "code_inline":
                yield token.content

    def _inline(self) -> Iterator[Token]:
        for token in self.tokens():
            yield token
            yield from token.children or []


@functools.cache
def _parsed(text: str) -> list[Token]:
    return _PARSER.parse(text)


class _Html(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for key, value in attrs if key in ("href", "src") and value is not None]

    @classmethod
    def targets(cls, html: str) -> list[str]:
        parser = cls()
        parser.feed(html)
        return parser.found
