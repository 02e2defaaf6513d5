"""Questions about plain pictures, and the fake student as a kind of subject that measuring processes can find."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from masters_edge.benchmarks import peers
from masters_edge.benchmarks.suites import Suite, from_questions
from masters_edge.data.records import Question
from tests.benchmarks.fakes import COLOURS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fake_kind(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(peers.KINDS, "fake", "tests.benchmarks.fakes")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return "fake"


@pytest.fixture
def suite() -> Suite:
    """20 questions about pictures in memory. One label in four is wrong: 75% is all that a seeing student gets."""
    names = list(COLOURS)
    questions = []
    for number in range(20):
        name = names[number % 4]
        file = io.BytesIO()
        Image.new("RGB", (4, 4), COLOURS[name]).save(file, "PNG")
        label = "purple" if number % 4 == 3 else name
        questions.append(Question(f"q{number}", f"what colour? ({number})", file.getvalue(), f"image-{name}", label))
    return from_questions(questions, "exact_match", name="colours")
