"""The KV caches that backends hold: they grow, keep what they are told to, and pictures are asked about again."""

import numpy as np
import pytest

from masters_edge.bundle import manifest as manifests
from masters_edge.runtime import Student
from masters_edge.runtime.backends import Backend, _openvino_decoders, onnxruntime
from masters_edge.runtime.opening import open_backend
from tests import tiny, wide
from tests.export import bundles

WIDTH = 64


def bundle_of(target: str, family: str = "smolvlm") -> tuple[str, str, bool, str]:
    """One that other files of tests ask for too."""
    return family, "int4" if target == "openvino" else "fp32", family == "smolvlm", target


@pytest.fixture(params=wide.cells(["onnx", "onnx_portable", "openvino"], ["onnx", "openvino"]))
def runner(request, monkeypatch) -> Backend:
    for module in (onnxruntime, _openvino_decoders):
        monkeypatch.setattr(module, "_ROOM", 2)  # so that it grows within a test
    folder = bundles.exported(*bundle_of(request.param))
    name = "openvino" if request.param == "openvino" else "onnxruntime"
    return open_backend(name, request.param, folder, manifests.read(folder).graphs, 1, exact=True)


@pytest.mark.wide
def test_token_by_token_is_as_all_at_once(runner: Backend) -> None:
    embeds = np.random.default_rng(0).standard_normal((1, 40, WIDTH)).astype(np.float32)
    places = np.arange(40)[None]
    runner.start()
    whole = runner.forward(embeds, places)
    runner.start()
    steps = [runner.forward(embeds[:, :3], places[:, :3])]
    steps += [runner.forward(embeds[:, i : i + 1], places[:, i : i + 1], last=True) for i in range(3, 40)]
    assert np.abs(np.concatenate(steps, axis=1) - whole).max() <= 1e-5 * np.abs(whole).max()


@pytest.mark.wide
def test_what_is_kept_counts_as_read(runner: Backend) -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.standard_normal((1, 12, WIDTH)).astype(np.float32) for _ in range(2))
    second[:, :8] = first[:, :8]
    places = np.arange(12)[None]
    runner.start()
    expected = runner.forward(second, places)[:, -1:]
    runner.start()
    runner.forward(first, places)
    kept = runner.start(8)
    assert kept in (0, 8)
    found = runner.forward(second[:, kept:], places[:, kept:], last=True)[:, -1:]
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert runner.start(1000) <= 12


@pytest.mark.parametrize(("family", "target"), [("smolvlm", "onnx"), ("qwen3_vl", "onnx"), ("smolvlm", "openvino")])
def test_a_picture_seen_once_answers_as_one_seen_each_time(family: str, target: str) -> None:
    folder = bundles.exported(*bundle_of(target, family))
    name = {"onnx": "onnxruntime"}.get(target, target)
    student = Student(folder, manifests.read(folder).graphs, target, name, threads=1, exact=True)
    image = tiny.picture(70, 51, seed=3)
    questions = ["what color is the shape?", "what color is it?", "is there a triangle?"]
    expected = [student.answer(image, question, exactly=6) for question in questions]
    looks: list[int] = []
    see, forward = student.backend.vision, student.backend.forward
    student.backend.vision = lambda inputs: looks.append(1) or see(inputs)
    read: list[int] = []
    student.backend.forward = lambda embeds, *rest, **named: (
        read.append(embeds.shape[1]) or forward(embeds, *rest, **named)
    )
    photo = student.look(image)
    found = []
    for question in questions:
        read.clear()
        found.append((student.answer(photo, question, exactly=6), read[0]))
    assert [answer.token_ids for answer, _ in found] == [answer.token_ids for answer in expected]
    assert looks == [1]
    assert all(answer.vision_ms < 1 for answer, _ in found)
    assert found[0][1] == expected[0].prompt_tokens
    ids = student.ask(photo, questions[0]).input_ids
    behind = len(ids) - ids[::-1].index(student.family.image_token_id)  # where the text after the picture begins
    assert all(tokens <= answer.prompt_tokens - behind for answer, tokens in found[1:])
    again = student.answer(tiny.picture(32, 32, seed=9), questions[0], exactly=6)
    assert student.answer(photo, questions[0], exactly=6).token_ids == expected[0].token_ids
    assert again.token_ids == student.answer(tiny.picture(32, 32, seed=9), questions[0], exactly=6).token_ids


def test_exactly_so_many_tokens() -> None:
    student = Student.load(bundles.exported("smolvlm", "fp32", True), backend="onnxruntime", threads=1)
    student.stop_ids = frozenset(range(student.prompt.tokenizer.get_vocab_size()))
    image = tiny.picture(32, 32, seed=0)
    assert len(student.answer(image, "what is in this image?").token_ids) == 1
    assert len(student.answer(image, "what is in this image?", exactly=11).token_ids) == 11
