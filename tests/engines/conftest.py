"""Questions, and the two tiny checkpoints as speakers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from masters_edge.data import easy_vqa
from masters_edge.data.records import Question
from masters_edge.engines import Speaker
from masters_edge.families.prompts import Prompter
from masters_edge.recipe.schema import Mask
from masters_edge.teacher.chain import TeacherChain


@pytest.fixture(scope="session")
def questions() -> list[Question]:
    return easy_vqa.read("train")[:6]


@pytest.fixture(scope="session")
def student(models: Path) -> Speaker:
    source = str(models / "student")
    return Speaker(Prompter.load(source), source)


@pytest.fixture(scope="session")
def teacher(models: Path) -> Callable[..., Speaker]:
    """Of its place in the chain `number`, masked at `ratio`; further arguments are the recipe's `mask`."""
    source = str(models / "teacher")

    def speaker(ratio: float = 0.0, number: int = 0, run: Path | None = None, **mask: Any) -> Speaker:
        chain = TeacherChain([source] * (number + 1), Mask(r_max=ratio, step=ratio or 0.05, **mask), run=run)
        return chain.speaker(number, ratio)

    return speaker
