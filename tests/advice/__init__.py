"""Advice that works: every sentence that tells a user what to do has a test that does it and sees it work.

The sentences are found in the sources, and the tests by their decorator, so that a sentence without a test is noticed
(`test_complete.py`). A test says with `@follows("a piece of the sentence")` which ones it follows; the piece must be in
one sentence alone. `{}` stands where something is put in, the file's path in front, "run/cast.py: ", and a
line break at the end.
"""

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from masters_edge.common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (  # whose sentences are looked at, a line each: folders and files of the repository
    "benchmarks",
    "export",
    "masters_edge/bundle",
    "masters_edge/common/registry.py",
    "masters_edge/data",
    "masters_edge/engines",
    "masters_edge/families",
    "masters_edge/preview",
    "masters_edge/recipe",
    "masters_edge/run",
    "masters_edge/runtime",
    "masters_edge/serve",
    "masters_edge/training",
    "masters_edge/workflow.py",
)
NOT_YET = (  # whose sentences nobody has followed yet
    *("ablate", "agreement", "api.py", "cli.py", "common", "distill.py", "doctor.py", "objective", "plan"),
    *("quantization", "responses", "rewards", "scoring", "teacher"),
)
KINDS = ("UserError", "MissingImage", "Unavailable")  # what is raised with a sentence
Test = TypeVar("Test", bound=Callable[..., None])


def follows(*pieces: str) -> Callable[[Test], Test]:
    """Decorator of a test: it gets these sentences said, does what they advise, and sees it work."""
    return lambda test: test


@contextmanager
def said(piece: str) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """The block ends in a UserError with this piece in its sentence."""
    with pytest.raises(UserError) as caught:
        yield caught
    assert piece in str(caught.value), f"{piece!r} is not in {caught.value}"


def sentences() -> dict[str, str]:
    """Every sentence of the rooms, behind its file's path, by place (file:line); `{}` where something is put in."""
    found = {}
    files = [file for room in ROOMS for file in _files(ROOT / room)]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in KINDS:
                name = file.relative_to(ROOT).as_posix()
                found[f"{name}:{node.lineno}"] = f"{name}: {'; '.join(map(_text, node.args))}\n"
    return found


def followed() -> dict[str, str]:
    """Piece of a sentence -> the test that follows it."""
    found = {}
    sources = {file: file.read_text(encoding="utf-8") for file in _files(ROOT / "tests")}
    for file in [file for file, source in sources.items() if "@follows(" in source]:
        for test in ast.parse(sources[file]).body:
            for call in getattr(test, "decorator_list", []):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "follows":
                    for piece in call.args:
                        assert isinstance(piece, ast.Constant), f"{file}: follows() takes the text itself"
                        assert piece.value not in found, f"{piece.value!r} is followed twice"
                        found[piece.value] = f"{file.relative_to(ROOT)}::{test.name}"
    return found


def _files(place: Path) -> list[Path]:
    return sorted(place.rglob("*.py")) if place.is_dir() else [place]


def _text(node: ast.expr) -> str:
    """A string's text; of one made elsewhere, its source."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(value.value if isinstance(value, ast.Constant) else "{}" for value in node.values)
    return f"<{ast.unparse(node)}>"
