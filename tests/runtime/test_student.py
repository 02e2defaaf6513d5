"""The torch-free student: the same greedy answers as transformers, honest timings, one sentence per mistake."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from masters_edge.common.errors import UserError
from masters_edge.runtime import Student
from tests import tiny
from tests.advice import follows, said
from tests.export import bundles


@pytest.fixture(scope="module")
def bundle() -> Path:
    return bundles.exported("smolvlm", "fp32", splitting=True)


@pytest.fixture(scope="module")
def student(bundle: Path) -> Student:
    return Student.load(bundle, backend="onnxruntime", threads=1)


@pytest.mark.parametrize("size", [(64, 48), (33, 77), (200, 31), (7, 9)])
def test_answers_equal_transformers(student: Student, size: tuple[int, int]) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = bundles.student("smolvlm", True)
    processor, model = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
    image = tiny.picture(*size, seed=11)
    content = [{"type": "image"}, {"type": "text", "text": "is there a triangle?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=text, images=[image], return_tensors="pt")
    banned = [model.config.image_token_id]
    whole = model.generate(**inputs, do_sample=False, max_new_tokens=12, suppress_tokens=banned)
    expected = whole[0, inputs["input_ids"].shape[1] :]
    answer = student.answer(image, "is there a triangle?")
    assert answer.token_ids == expected.tolist()
    assert answer.text == processor.decode(expected, skip_special_tokens=True).strip()
    assert answer.prompt_tokens == inputs["input_ids"].shape[1]


def test_an_answer_never_holds_an_image_placeholder(student: Student) -> None:
    logits = np.zeros(352, np.float32)
    logits[[7, student.family.image_token_id]] = 1.0, 2.0
    assert student.best(logits) == 7
    assert logits[student.family.image_token_id] == 2.0


def test_any_text_is_a_question(student: Student) -> None:
    """Such as llama.cpp doesn't take."""
    for text in ("what of\0this image?", "", "what does <|endoftext|> mean?"):
        assert student.answer(tiny.picture(), text, max_new_tokens=1).token_ids


def test_a_runtime_that_computes_no_numbers_has_no_answer(student: Student) -> None:
    """Else it would answer the first token for ever."""
    logits = np.zeros(8, np.float32)
    logits[3] = np.nan
    with pytest.raises(UserError, match="on onnxruntime the student's numbers are not finite"):
        student.best(logits)


def test_timings_add_up(student: Student) -> None:
    answer = student.answer(tiny.picture(), "what is in this image?", max_new_tokens=5)
    stages = answer.preprocess_ms + answer.vision_ms + answer.prefill_ms
    assert answer.ttft_ms == pytest.approx(stages, abs=1e-6)
    assert answer.total_ms > answer.ttft_ms
    assert answer.decode_tokens == len(answer.token_ids) - 1 == 4
    assert answer.decode_tokens_per_s is not None and answer.decode_tokens_per_s > 0
    one = student.answer(tiny.picture(), "what is in this image?", max_new_tokens=1)
    assert one.decode_tokens == 0 and one.decode_tokens_per_s is None
    assert one.token_ids == answer.token_ids[:1]


def test_streamed_pieces_are_the_answer(student: Student) -> None:
    pieces: list[str] = []
    answer = student.answer(tiny.picture(seed=4), "what is in this image?", on_text=pieces.append)
    assert "".join(pieces) == answer.text
    assert len(pieces) > 1


def test_stops_at_any_end_id(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = student.answer(tiny.picture(), "what is in this image?").token_ids
    monkeypatch.setattr(student, "stop_ids", frozenset({whole[3], 999}))
    assert student.answer(tiny.picture(), "what is in this image?").token_ids == whole[: whole.index(whole[3]) + 1]


def test_answers_do_not_depend_on_what_was_asked_before(student: Student) -> None:
    first = student.answer(tiny.picture(), "what is in this image?")
    other = student.answer(tiny.picture(seed=5), "is there a triangle?")
    assert student.answer(tiny.picture(), "what is in this image?").token_ids == first.token_ids != other.token_ids


def test_a_file_gives_the_same_answer(student: Student, tmp_path: Path) -> None:
    tiny.picture().save(tmp_path / "p.png")
    in_memory = student.answer(tiny.picture(), "what?").token_ids
    assert student.answer(tmp_path / "p.png", "what?").token_ids == in_memory


def test_limits_are_said(student: Student) -> None:
    with pytest.raises(UserError, match="reads 512"):
        student.answer(tiny.picture(), "what is it? " * 400)
    with pytest.raises(UserError, match="max_new_tokens is 0"):
        student.answer(tiny.picture(), "what?", max_new_tokens=0)
    # The context ends the answer, not an error of the runtime.
    answer = student.answer(tiny.picture(32, 32), "what is it? " * 75, max_new_tokens=500)
    assert answer.prompt_tokens + len(answer.token_ids) <= 512


def test_what_makes_a_prompt_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shorter question where that helps, a smaller picture where the picture alone is too much; both then do."""
    student = Student.load(bundles.exported("qwen3_vl", "fp32"), backend="onnxruntime", threads=1)
    small, large, question = tiny.picture(32, 32), tiny.picture(300, 200), "what is this?"
    monkeypatch.setattr(student, "context", len(student.ask(large, "").input_ids))
    assert len(student.ask(small, question).input_ids) < student.context
    with pytest.raises(UserError, match="of them the image's, and .* give a smaller"):
        student.answer(large, question)
    with pytest.raises(UserError, match=f"the student reads {student.context}; ask a shorter question"):
        student.answer(small, question * 40)
    assert student.answer(small, question).token_ids


@follows("is half of one (a lone surrogate); write it anew", "which hold {} at most: ask a shorter question")
def test_a_question_written_anew_is_answered(student: Student) -> None:
    for question, advice in {"is it \ud83d?": "write it anew", "x" * 1_000_001: "ask a shorter question"}.items():
        with said(advice):
            student.answer(tiny.picture(), question)
    assert student.answer(tiny.picture(), "is it red?").token_ids


@pytest.mark.parametrize("question", ["\ud83d", "is it \udc41 red?", " " * 1_000_001 + "x", "x" * 11_000_000])
def test_what_is_no_question_is_refused_before_anything_is_made_of_it(
    student: Student, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "prompt", None)
    monkeypatch.setattr(student, "context", 10**7)
    with pytest.raises(UserError, match="is half of one|ask a shorter question"):
        student.answer(tiny.picture(), question)


def test_a_panic_of_the_tokenizer_is_a_sentence(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a pattern that gives up on eleven million blanks raises it: no Exception, and the next question is read."""

    class PanicException(BaseException): ...

    def panic(*arguments: object, **named: object) -> None:
        raise PanicException("Onig: Regex search error: retry-limit-in-match over")

    class Tokenizer:
        encode = panic

    with monkeypatch.context() as broken:
        broken.setattr(student.prompt, "tokenizer", Tokenizer())
        with pytest.raises(UserError, match="the tokenizer can't read the question .Onig: .*; ask it in other words"):
            student.answer(tiny.picture(), "what?")
    assert student.answer(tiny.picture(), "what?", 1).token_ids


def test_bad_bundles(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Student.load(tmp_path / "none")
    with pytest.raises(UserError, match="use one of: auto, .*onnxruntime"):
        Student.load(bundle, backend="onnx-runtime")
    with pytest.raises(UserError, match="threads is 0"):
        Student.load(bundle, threads=0)
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    graph = copy / "onnx" / "decoder_model_merged.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(UserError, match="decoder_model_merged.onnx has changed"):
        Student.load(copy)
    graph.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="can't load"):
        Student.load(copy, check=False)


def test_settings_that_do_not_fit_the_graphs(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    path = copy / "processor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_seq_len": 5}))
    with pytest.raises(UserError, match="places for image features"):
        Student.load(copy, check=False).answer(tiny.picture(), "what?")


def test_needs_no_torch_and_a_second_of_processor_time(bundle: Path, tmp_path: Path) -> None:
    tiny.picture().save(tmp_path / "p.png")
    code = f"""
import sys, time
blocked = ("torch", "transformers", "onnx", "safetensors")
sys.modules.update(dict.fromkeys(blocked))  # importing one of them now fails
from pathlib import Path
from masters_edge.runtime import Student
student = Student.load(Path({str(bundle)!r}), backend="onnxruntime")
answer = student.answer(Path({str(tmp_path / "p.png")!r}), "what is in this image?")
print(time.process_time(), len(answer.token_ids))
"""
    for _ in range(2):  # the first may have to compile what it imports
        run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    seconds, tokens = run.stdout.split()
    assert int(tokens) == 12
    assert run.stderr == ""
    assert float(seconds) < 1  # of the processor's: what else the machine does is not counted
