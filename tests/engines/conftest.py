"""Questions, and the two tiny checkpoints as speakers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from masters_edge.data import easy_vqa
from masters_edge.data.records import Question
from masters_edge.engines import Speaker
from masters_edge.families.prompts import Prompter


@pytest.fixture(scope="session")
def questions() -> list[Question]:
    return easy_vqa.read("train")[:6]


@pytest.fixture(scope="session")
def student(models: Path) -> Speaker:
    source = str(models / "student")
    return Speaker(Prompter.load(source), source)


@pytest.fixture(scope="session")
def teacher(models: Path) -> Callable[..., Speaker]:
    source = str(models / "teacher")
    prompter = Prompter.load(source)
    return lambda ratio=0.0, number=0, **mask: Speaker(prompter, source, ratio, number, **mask)
