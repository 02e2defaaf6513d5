"""easy-VQA (Zhou 2019, MIT licence): 5,000 images of one coloured shape, 48,248 questions, 13 answers.

Read straight from the files of the `easy-vqa` package on PyPI; its official split into train and test is kept apart.
"""

import importlib.util
import json
from pathlib import Path

from masters_edge.common.errors import UserError
from masters_edge.data.records import Question

SPLITS = ("train", "test")


def folder() -> Path:
    """The package's data folder (found without importing the package)."""
    found = importlib.util.find_spec("easy_vqa")
    if found is None or found.origin is None:
        raise UserError("the easy-VQA data are not installed; run: pip install easy-vqa")
    return Path(found.origin).parent / "data"


def read(split: str) -> list[Question]:
    """All questions of one official split, in the package's order."""
    if split not in SPLITS:
        raise UserError(f"easy-VQA has no split {split!r}; use one of: {', '.join(SPLITS)}")
    root = folder() / split
    rows = json.loads((root / "questions.json").read_text(encoding="utf-8"))
    return [
        Question(
            id=f"easy-vqa/{split}/{index}",
            text=text,
            image=root / "images" / f"{image}.png",
            image_id=f"easy-vqa/{split}/{image}",
            answer=answer,
        )
        for index, (text, answer, image) in enumerate(rows)
    ]
