"""Picture sizes and prompt lengths that every student is timed on, beside the questions of a suite.

The pictures are drawn here, the same everywhere; each case is answered again and again with exactly `NEW_TOKENS`
tokens, so that speeds can be compared between students that say more and students that say less.
"""

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from masters_edge.benchmarks import job
from masters_edge.data.records import Question

if TYPE_CHECKING:
    from masters_edge.benchmarks.suites import Suite

NEW_TOKENS = 16
REPEATS = 5

# 8 and about 100 words, easy-VQA's own: a student that knows few words gets few tokens of them.
PROMPTS = {
    "short": "what color is the shape in this image?",
    "long": (
        "is there a circle in the image? is there a rectangle in the image? is there a triangle in the image? "
        "does the image contain a red shape? does the image contain a blue shape? does the image not contain a green "
        "shape? is a yellow shape present in the image? is a black triangle present? is there not a brown circle in "
        "the image? does the image contain a gray rectangle? is there a teal circle in the image? is a red triangle "
        "present? what shape is present in the image? what is the color of the shape? "
        "what color is the shape in this image?"
    ),
}


@dataclass(frozen=True)
class CaseSpec:
    """One case of a job; `image` is its picture's place in the job folder."""

    name: str
    image_width: int
    image_height: int
    prompt: str
    new_tokens: int

    @property
    def image(self) -> str:
        return f"{job.IMAGES}/case-{self.image_width}x{self.image_height}.png"

    def as_row(self) -> dict[str, Any]:
        return asdict(self) | {"image": self.image, "text": PROMPTS[self.prompt], "repeats": REPEATS}


SIZES = ((256, 256), (1024, 768))
CASES = tuple(
    CaseSpec(f"{width}x{height}, {prompt} prompt", width, height, prompt, NEW_TOKENS)
    for width, height in SIZES
    for prompt in PROMPTS
)


def picture(width: int, height: int) -> Image.Image:
    """A disc on a background whose colors change slowly: whole numbers alone, so that every machine draws the same."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    background = np.stack([200 * x // width, 200 * y // height, 100 + 100 * (x + y) // (width + height)], axis=-1)
    radius = min(width, height) // 4
    disc = (x - width // 3) ** 2 + (y - height // 2) ** 2 < radius**2
    background[disc] = (220, 40, 30)
    return Image.fromarray(background.astype(np.uint8))


def write_pictures(folder: Path) -> None:
    """The cases' pictures into a job folder."""
    for case in {case.image: case for case in CASES}.values():
        picture(case.image_width, case.image_height).save(folder / case.image)


def made_up(count: int) -> "Suite":
    """So many questions about a made-up picture, for a student that is to be timed and not scored."""
    from masters_edge.benchmarks.suites import Suite

    file = io.BytesIO()
    picture(*SIZES[0]).save(file, "PNG")
    text = PROMPTS["short"]
    questions = tuple(Question(f"made-up/{n}", text, file.getvalue(), "made-up") for n in range(count))
    return Suite(name="made up", metric="exact_match", questions=questions)
