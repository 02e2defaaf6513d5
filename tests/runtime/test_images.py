"""Preprocessing equals transformers' PIL image processors, pixel for pixel."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masters_edge.common.errors import UserError
from masters_edge.runtime import images
from masters_edge.runtime.families.smolvlm import preprocess
from tests import tiny

SIZES = [(32, 32), (64, 48), (33, 77), (200, 31), (1, 1), (1, 90), (91, 2), (500, 333), (64, 65), (129, 128)]


def processor(family: str, **settings):
    if family == "smolvlm":
        from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

        return SmolVLMImageProcessorPil(**settings)
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    return Idefics3ImageProcessorPil(**settings)


def assert_equal(image: Image.Image, theirs) -> None:
    ours = preprocess(image, theirs.to_dict())
    expected = theirs([[image]], return_tensors="np", return_row_col_info=True)
    assert ours.inputs["pixel_values"].dtype == np.float32
    assert ours.inputs["pixel_attention_mask"].dtype == bool
    assert ours.inputs["pixel_values"].shape == expected["pixel_values"].shape
    assert np.abs(ours.inputs["pixel_values"] - expected["pixel_values"]).max() <= 1e-5
    assert np.array_equal(ours.inputs["pixel_attention_mask"], expected["pixel_attention_mask"])
    assert [[ours.rows]] == expected["rows"]
    assert [[ours.columns]] == expected["cols"]


@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
@pytest.mark.parametrize("splitting", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_equals_transformers(family: str, splitting: bool, size: tuple[int, int]) -> None:
    settings = dict(size={"longest_edge": 96}, max_image_size={"longest_edge": 32}, do_image_splitting=splitting)
    assert_equal(tiny.picture(*size), processor(family, **settings))


@pytest.mark.parametrize("longest", [16, 32, 5000])
def test_first_size_below_and_above_a_frame(longest: int) -> None:
    settings = dict(size={"longest_edge": longest}, max_image_size={"longest_edge": 512})
    assert_equal(tiny.picture(60, 13), processor("smolvlm", **settings))


def test_other_statistics_and_resampling() -> None:
    settings = dict(
        size={"height": 50, "width": 70},
        max_image_size={"longest_edge": 32},
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.3, 0.4],
        resample=3,
    )
    # A fixed first size is only taken without splitting: transformers then resizes to one frame.
    assert_equal(tiny.picture(40, 80), processor("smolvlm", **settings, do_image_splitting=False))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA"])
def test_modes(mode: str) -> None:
    image = tiny.picture(45, 37)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    theirs = processor("smolvlm", size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    assert_equal(image if mode == "RGBA" else image.convert(mode), theirs)


def test_palette_with_transparency() -> None:
    image = tiny.picture(40, 40).convert("P")
    image.info["transparency"] = 3
    assert_equal(image, processor("smolvlm", size={"longest_edge": 64}, max_image_size={"longest_edge": 32}))


def test_bad_files(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    tiny.picture().save(whole)
    half = tmp_path / "half.png"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    text = tmp_path / "text.png"
    text.write_text("no picture")
    for path, words in (
        (half, "half.png can't be read"),
        (text, "text.png can't be read"),
        (tmp_path / "none.png", "no image file"),
        (tmp_path, "can't be read"),
    ):
        with pytest.raises(UserError, match=words) as error:
            images.open_image(path)
        assert "\n" not in str(error.value)


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    tiny.picture(40, 20).save(tmp_path / "photo.jpg", exif=exif)
    assert images.open_image(tmp_path / "photo.jpg").size == (20, 40)
