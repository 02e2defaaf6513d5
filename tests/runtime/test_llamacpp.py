"""The llama.cpp backend: pictures handed over pixel by pixel, every id heard, nothing on the screen, mistakes said."""

import base64
import dataclasses
import io
import re
import unicodedata
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
from tests.advice import follows, said
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
    around, pictures = backend._media(question)
    whole = backend.picture(question)
    backend.close()
    assert len(around) == len(pictures) + 1
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


QUESTIONS = [
    unicodedata.normalize("NFD", "café, tiếng Việt, 한글"),
    "\N{ANGSTROM SIGN} and \N{OHM SIGN}",
    "\N{CJK COMPATIBILITY IDEOGRAPH-F90A}?",
    "what does <|endoftext|> mean?",
    "what does <not an end: <|endoftext|>> mean?",
    "what is <__masters_edge_picture__>, <__media__>, <__image__>?",
    "what is <|vision_start|><|vision_end|>, <img></img>, <fake_token_around_image><global-img>?",
    "  blanks\r\n\tand\n\nlines \u3000\u00a0 ",
    "",
]


@pytest.mark.parametrize("name", ["smolvlm_whole", "smolvlm_tiled", "qwen3_vl", "internvl3"])
def test_any_question_is_read_as_pytorch_reads_it(name: str) -> None:
    """Letters taken apart, signs that stand for others, ends that have another name in the file, marks of runtimes."""
    of = made_of.made(name, "fp32")
    vocabulary = of.student.processor.tokenizer.get_vocab()
    backend = made_of.backend(of, exact=False)
    image = tiny.picture(32, 32)
    for text in QUESTIONS:
        question = made_of.question(of, image, text)
        assert question.input_ids == made_of.reference(of, image, text).input_ids[0].tolist()
        for ids in backend._media(question)[0]:
            assert backend.misread(ids, question.tokenizer) is None, text
        answer = backend.answer(question, 3, made_of.stop_ids(of))  # refused where the number of tokens is another
        assert answer.token_ids
    backend.close()
    assert "<|endoftext|>" in vocabulary


def test_an_answer_is_pytorchs_where_the_prompt_had_to_be_normalised() -> None:
    of = made_of.made("qwen3_vl", "fp32")
    backend, image = made_of.backend(of, exact=True), tiny.picture(32, 32)
    for text in (QUESTIONS[0], QUESTIONS[2], QUESTIONS[3]):
        answer = backend.answer(made_of.question(of, image, text), made_of.NEW_TOKENS, made_of.stop_ids(of))
        assert answer.token_ids == made_of.reference(of, image, text).answer
    backend.close()


@follows("llamacpp.py: llama.cpp cuts {} into other tokens than the student's tokenizer; leave it out of the question")
def test_words_that_llama_cpp_cuts_otherwise_are_named_before_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    of = made_of.made("smolvlm_whole", "fp32")
    backend, image = made_of.backend(of, exact=False), tiny.picture()
    said = "cuts '{}' into other tokens than the student's tokenizer; leave it out of the question"
    with pytest.raises(UserError, match=said.format("of\\\\x00this")):  # the end of a text in C
        backend.answer(made_of.question(of, image, "what of\0this image?"), 4, [])
    # As if words were cut elsewhere, within and without half a character.
    tokenize = backend.tokenize
    for word in ("image?", "\N{CYRILLIC SMALL LETTER ZHE}"):
        piece = tokenize(word)[-1]
        monkeypatch.setattr(backend, "tokenize", lambda text: [t for t in tokenize(text) if t != piece])  # noqa: B023
        with pytest.raises(UserError, match=said.format(re.escape(word))):
            backend.answer(made_of.question(of, image, f"what is in this {word} it says"), 4, [])
    monkeypatch.setattr(backend, "tokenize", tokenize)
    # What is advised: without the word it is answered. (With it by ONNX: tests/runtime/test_student.py)
    assert backend.answer(made_of.question(of, image, "what is in this it says"), 4, []).token_ids
    backend.close()


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


@follows(
    "llama.cpp can't answer ({}); {}",
    "so it cuts this picture otherwise; ask about another, or {}",
    "the prompt has {} places for frames, the picture {} of them",
    "{} frames can't be joined to {} rows of {}",
    "the chat template writes no {}, which llama.cpp puts around a picture; {}",
    "llama.cpp can't load {} ({}); copy or export the bundle again",
)
def test_mistakes_are_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = made_of.made("smolvlm_whole", "fp32")
    backend = made_of.backend(of, exact=True)
    question = made_of.question(of, tiny.picture())
    image_token = of.student.model.config.image_token_id
    elsewhere = "export the student to another target, such as onnx"
    with said(elsewhere) as caught:
        backend.answer(made_of.question(of, tiny.picture(), "why? " * 600), 4, [])
    assert "exceeds the available context size" in str(caught.value)
    twice = [token for token in question.input_ids for _ in range(1 + (token == image_token))]
    with said(f"so it cuts this picture otherwise; ask about another, or {elsewhere}"):
        backend.answer(dataclasses.replace(question, input_ids=twice), 4, [])
    without = dataclasses.replace(question, input_ids=[t for t in question.input_ids if t != image_token])
    with said("places for frames, the picture 1 of them; the bundle's settings don't fit each other: export it again"):
        backend.answer(without, 4, [])
    with monkeypatch.context() as patched:
        patched.setattr(backend, "settings", backend.settings.model_copy(update={"layout": "patches"}))
        with said(f"which llama.cpp puts around a picture; {elsewhere}"):
            backend.answer(without, 4, [])
    with said("can't be joined to 0 rows of 0; the bundle's settings don't fit each other: export it again"):
        llamacpp._joined(question.seen, [tiny.picture()] * 2)
    assert backend.answer(question, 4, []).token_ids  # another picture, as it is exported
    backend.close()
    files = ("llamacpp.json", "preprocessor_config.json", "config.json", target.MODEL, target.VISION)
    for file in files:
        (tmp_path / file).write_bytes((of.exact / file).read_bytes())
    (tmp_path / target.MODEL).write_bytes(b"GGUF but no more")
    with said("copy or export the bundle again"):
        llamacpp.open_backend(tmp_path, of.graphs, 1, False)
    (tmp_path / target.MODEL).write_bytes((of.exact / target.MODEL).read_bytes())
    llamacpp.open_backend(tmp_path, of.graphs, 1, False).close()


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
