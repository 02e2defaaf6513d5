"""The llama.cpp backend: pictures handed over pixel by pixel, every id heard, nothing on the screen, mistakes said."""

import base64
import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

from masters_edge.common.errors import UserError
from masters_edge.export.quantize.weights import quantize
from masters_edge.export.student import load
from masters_edge.export.targets import Lowering
from masters_edge.export.targets import gguf as target
from masters_edge.quantization.by_part import plan
from masters_edge.runtime.backends import llamacpp
from tests import tiny
from tests.export import gguf_bundles as made_of


def test_every_id_is_heard_in_order_half_characters_too() -> None:
    """Random answers are full of lone bytes, which llama.cpp holds back."""
    of = made_of.made("smolvlm_whole", "fp32")
    backend = made_of.backend(of, exact=True)
    held_back = 0
    for seed in range(6):
        question = made_of.question(of, tiny.picture(seed=seed))
        heard: list[int] = []
        answer = backend.answer(question, made_of.NEW_TOKENS, made_of.stop_ids(of), heard.append, top=1)
        assert heard == answer.token_ids == made_of.reference(of, tiny.picture(seed=seed)).answer
        held_back += len(answer.token_ids) - len(answer.top)
    backend.close()
    assert held_back > 0


def test_an_answer_stops_at_the_students_own_ends_and_at_the_limit() -> None:
    of = made_of.made("smolvlm_whole", "fp32")
    backend = made_of.backend(of, exact=True)
    for seed in range(4):  # answers with and without tokens that are held back before the end
        question = made_of.question(of, tiny.picture(seed=seed))
        whole = backend.answer(question, made_of.NEW_TOKENS, made_of.stop_ids(of)).token_ids
        assert len(whole) == made_of.NEW_TOKENS
        assert backend.answer(question, 3, made_of.stop_ids(of)).token_ids == whole[:3]
        for stop in (whole[0], whole[4]):
            stopped = backend.answer(question, made_of.NEW_TOKENS, [stop]).token_ids
            assert stopped == whole[: whole.index(stop) + 1]
    # And what comes after a stopped answer starts afresh.
    again = backend.answer(question, made_of.NEW_TOKENS, made_of.stop_ids(of))
    backend.close()
    assert again.token_ids == whole and again.prompt_ms > 0 and again.decode_ms > 0


def test_an_answer_never_holds_a_picture(tmp_path: Path) -> None:
    student = load(made_of.student("qwen2_5_vl"))
    image_token = student.model.config.image_token_id
    with torch.no_grad():
        student.model.lm_head.weight[image_token] *= 100.0
        student.model.lm_head.weight[image_token + 1] = -student.model.lm_head.weight[image_token]
    written = target.write(lowering := Lowering(student, quantize(student, plan("fp32")), [], tmp_path))
    of = made_of.Made(student, lowering, written, tmp_path, tmp_path)
    backend = made_of.backend(of, exact=True)
    answer = backend.answer(made_of.question(of, tiny.picture()), made_of.NEW_TOKENS, made_of.stop_ids(of))
    backend.close()
    assert answer.token_ids == made_of.reference(of, tiny.picture()).answer
    assert image_token not in answer.token_ids


@pytest.mark.parametrize(
    ("name", "size"),
    [("smolvlm_whole", (70, 51)), ("smolvlm_tiled", (70, 51)), ("qwen3_vl", (64, 48)), ("internvl3", (64, 32))],
)
def test_pictures_go_over_pixel_by_pixel(name: str, size: tuple[int, int]) -> None:
    of = made_of.made(name, "fp32")
    image = tiny.picture(*size)
    question = made_of.question(of, image)
    backend = made_of.backend(of, exact=True)
    text, pictures = backend._media(question)
    whole = backend.picture(question)
    backend.close()
    assert text.count("<__masters_edge_picture__>") == len(pictures)
    if name == "smolvlm_whole":
        assert whole is None
        expected = image.resize((32, int(32 / (70 / 51)) + 1), Image.Resampling.LANCZOS)
        expected = expected.resize((32, 32), Image.Resampling.LANCZOS)
    elif name == "smolvlm_tiled":
        expected = image.resize((64, int(64 / (70 / 51))), Image.Resampling.LANCZOS)
        expected = expected.resize((64, 64), Image.Resampling.LANCZOS)
    else:
        expected = image  # already whole patches, or whole tiles
    assert len(pictures) == 1 and np.array_equal(np.asarray(pictures[0]), np.asarray(expected))
    sent = Image.open(io.BytesIO(base64.b64decode(llamacpp._bmp(pictures[0]))))
    assert np.array_equal(np.asarray(sent), np.asarray(expected))


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    of = made_of.made("smolvlm_whole", "int4")
    capfd.readouterr()
    backend = made_of.backend(of, exact=False)
    backend.answer(made_of.question(of, tiny.picture()), 4, made_of.stop_ids(of))
    with pytest.raises(UserError):
        backend.text_ms(100_000)
    backend.close()
    assert capfd.readouterr() == ("", "")


def test_the_sockets_folder_is_private_and_goes_away() -> None:
    backend = made_of.backend(made_of.made("smolvlm_whole", "fp32"), exact=True)
    folder = Path(backend._socket).parent
    assert folder.stat().st_mode & 0o077 == 0
    backend.close()  # at once, before any question
    assert not folder.exists()


def test_the_prompts_time_can_be_parted() -> None:
    backend = made_of.backend(made_of.made("smolvlm_whole", "fp32"), exact=False)
    assert 0 < backend.text_ms(20) < 10_000
    backend.close()


def test_mistakes_are_said_in_a_sentence(tmp_path: Path) -> None:
    of = made_of.made("smolvlm_whole", "fp32")
    backend = made_of.backend(of, exact=True)
    question = made_of.question(of, tiny.picture())
    with pytest.raises(UserError, match="exceeds the available context size"):
        backend.answer(made_of.question(of, tiny.picture(), "why? " * 600), 4, [])
    other = dataclasses.replace(question, input_ids=[*question.input_ids[:-1], 7])
    with pytest.raises(UserError, match="makes other ids of the prompt"):
        backend.answer(other, 4, [])
    longer = dataclasses.replace(question, input_ids=[question.input_ids[0], 5, *question.input_ids])
    with pytest.raises(UserError, match="(makes other ids|tokens of prompt and picture)"):
        backend.answer(longer, 4, [])
    backend.close()
    fast = made_of.backend(of, exact=False)
    with pytest.raises(UserError, match="tokens of prompt and picture"):
        fast.answer(longer, 4, [])
    fast.close()
    for file in ("llamacpp.json", "preprocessor_config.json", "config.json"):
        (tmp_path / file).write_bytes((of.exact / file).read_bytes())
    for file in (target.MODEL, target.VISION):
        (tmp_path / file).write_bytes(b"GGUF but no more")
    with pytest.raises(UserError, match="llama.cpp can't load"):
        llamacpp.open_backend(tmp_path, of.graphs, 1, False)


def test_a_longer_prompt_than_there_is_room_for_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    of = made_of.made("smolvlm_whole", "fp32")
    question = made_of.question(of, tiny.picture(seed=1))
    backend = made_of.backend(of, exact=True)
    expected = backend.answer(question, made_of.NEW_TOKENS, made_of.stop_ids(of)).token_ids
    backend.close()
    monkeypatch.setattr(llamacpp, "CONTEXT", len(question.input_ids) + 1)
    small = made_of.backend(of, exact=True)
    opened: list[int] = []
    open_ = small._open
    monkeypatch.setattr(small, "_open", lambda tokens: opened.append(tokens) or open_(tokens))
    assert small.answer(question, 1, made_of.stop_ids(of)).token_ids == expected[:1]
    assert opened == []
    assert small.answer(question, made_of.NEW_TOKENS, made_of.stop_ids(of)).token_ids == expected
    assert len(opened) == 1
    small.close()


def test_an_answer_in_one_piece_is_the_one_that_comes_token_by_token() -> None:
    of = made_of.made("smolvlm_whole", "fp32")
    backend = made_of.backend(of, exact=True)
    question = made_of.question(of, tiny.picture(seed=2))
    heard: list[int] = []
    streamed = backend.answer(question, made_of.NEW_TOKENS, (), heard.append)
    whole = backend.answer(question, made_of.NEW_TOKENS, ())
    backend.close()
    assert whole.token_ids == streamed.token_ids == heard and len(heard) == made_of.NEW_TOKENS
    assert whole.prompt_ms > 0 and whole.decode_ms > 0
