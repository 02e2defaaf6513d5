import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from masters_edge.common.errors import UserError
from masters_edge.data import Question, open_image
from masters_edge.data.records import image_size


def question(image) -> Question:
    return Question("q7", "what?", image, "i")


def encoded(kind: str, **options) -> bytes:
    file = io.BytesIO()
    noise = Image.frombytes("RGB", (24, 24), bytes((i * 7919 >> 3) % 256 for i in range(24 * 24 * 3)))
    noise.save(file, kind, **options)
    return file.getvalue()


def test_without_answer_forgets_every_answer():
    labelled = Question("a", "t", b"", "i", "yes", ("yes", "no"))
    assert (labelled.without_answer().answer, labelled.without_answer().answers) == (None, ())


def test_missing_file_names_question_and_file(tmp_path: Path):
    with pytest.raises(UserError, match=r"question q7: there is no image file .*none\.png; mend"):
        open_image(question(tmp_path / "none.png"))


def test_truncated_file_names_question_and_file(tmp_path: Path):
    (tmp_path / "half.png").write_bytes(encoded("PNG")[:-60])
    with pytest.raises(UserError, match=r"question q7: the image in .*half\.png can't be read"):
        open_image(question(tmp_path / "half.png"))


def test_an_upright_picture_stays_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn 90 degrees clockwise to view"
    file = io.BytesIO()
    Image.new("RGB", (10, 4)).save(file, "JPEG", exif=exif)
    assert open_image(question(file.getvalue())).size == (4, 10)
    assert image_size(question(file.getvalue())) == (4, 10)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_header_tells_the_size(kind: str):
    file = io.BytesIO()
    Image.new("RGB", (10, 4)).save(file, kind)
    assert image_size(question(file.getvalue())) == (10, 4)
    with pytest.raises(UserError, match="question q7: the image in the data set can't be read"):
        image_size(question(b"nothing"))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 4000),
)
def test_damaged_bytes_give_an_image_or_one_sentence(kind, changes, cut):
    data = bytearray(encoded(kind))
    for position, value in changes:
        data[position % len(data)] = value
    try:
        assert open_image(question(bytes(data[: max(1, len(data) - cut % len(data))]))).mode == "RGB"
    except UserError as error:
        assert "q7" in str(error) and "\n" not in str(error)
