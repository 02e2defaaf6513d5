"""For every family: pixels, prompt ids and positions equal those of transformers' own processors and models."""

import functools
from pathlib import Path

import numpy as np
import pytest

from masters_edge.common.errors import UserError
from masters_edge.export import graphs
from masters_edge.export.settings import write_settings
from masters_edge.export.student import LoadedStudent, load
from masters_edge.runtime.families import Family, open_family
from masters_edge.runtime.prompt import Prompt
from tests import tiny
from tests.export import bundles

FAMILIES = ["smolvlm", "idefics3", "qwen2_5_vl", "qwen3_vl", "internvl3", "internvl3_5", "llava_onevision"]
SIZES = [(32, 32), (70, 51), (20, 90)]
QUESTIONS = [
    "what is in this image?",
    "",
    "  is there\na  triangle? ",
    "où est l'été? 緑の円 🟢",
    "<end_of_utterance> no",
]


@functools.lru_cache
def opened(family: str) -> tuple[LoadedStudent, Path, Family]:
    """The tiny student, a folder with a bundle's settings, and the torch-free family on it."""
    student = load(bundles.student(family, family in ("smolvlm", "idefics3")))
    folder = bundles.root() / f"{family}-settings"
    folder.mkdir()
    write_settings(student, folder)
    return student, folder, open_family(student.model_type, folder)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", SIZES)
def test_pixels_ids_and_positions_equal_transformers(family: str, size: tuple[int, int]) -> None:
    student, folder, ours = opened(family)
    prompt = Prompt(folder)
    image = tiny.picture(*size)
    seen = ours.look(image)
    theirs = graphs.family(student.model_type).Reference(student, image, QUESTIONS[0], 2)
    assert set(seen.inputs) == set(theirs.vision_inputs)
    for name, expected in theirs.vision_inputs.items():
        found = seen.inputs[name]
        assert found.dtype == expected.dtype and found.shape == expected.shape
        assert np.abs(found.astype(np.float64) - expected).max() <= 1e-5
    for question in QUESTIONS:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = student.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        assert prompt.text(question) == text
        expected_ids = list(student.processor(text=text, images=[image])["input_ids"][0])
        assert prompt.ids(question, ours.placeholder, ours.image_text(seen)) == expected_ids
    positions, after = ours.positions(theirs.input_ids, seen)
    length = theirs.input_ids.shape[1]
    assert np.array_equal(positions, theirs.position_ids[..., :length])
    assert after == theirs.position_ids[..., length].max()


def test_other_model_types_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model_type 'llava'; this masters-edge answers with: .*smolvlm"):
        open_family("llava", tmp_path)
