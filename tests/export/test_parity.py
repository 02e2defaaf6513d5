"""The gate's arithmetic: what is a near tie, what is garbage, and which layer it names."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from masters_edge.common.errors import UserError
from masters_edge.export import graphs
from masters_edge.export.gate import finite, parity
from masters_edge.export.quantize import quantize
from masters_edge.export.settings import write_settings
from masters_edge.export.student import LoadedStudent, load
from masters_edge.quantization.by_part import plan
from tests import tiny
from tests.export import bundles

TIE = dict(input_ids=np.zeros((1, 1), np.int64), logits=np.array([[[0.0, 0.9, 1.0]]], np.float32), answer=[2])


def test_only_a_near_tie_is_forgiven_and_told_of_with_its_margin() -> None:
    """PyTorch chose id 2 at the only place, 0.1 ahead of id 1."""
    reference = SimpleNamespace(**TIE)
    tie = parity.near_tie([1], reference, 0.06, 0, "what?")
    assert (tie.sample, tie.token, tie.error) == (1, 1, 0.06) and tie.margin == pytest.approx(0.1)
    with pytest.raises(UserError, match="sample 1 .* differs from PyTorch's at token 1"):
        parity.near_tie([1], reference, 0.04, 0, "what?")
    with pytest.raises(UserError, match="at token 2"):
        parity.near_tie([2, 1], reference, 1.0, 0, "what?")


def test_an_answer_that_is_not_pytorchs_own_likeliest_is_no_tie() -> None:
    """Then PyTorch was asked for something else than the greedy answer: the two don't compare."""
    reference = SimpleNamespace(**TIE | {"answer": [0]})
    with pytest.raises(UserError, match="differs from PyTorch's at token 1"):
        parity.near_tie([2], reference, 0.04, 0, "what?")


def test_relative_error() -> None:
    ones = np.ones((2, 2), np.float32)
    assert parity.relative_error(ones * 1.5, ones) == 0.5
    assert parity.relative_error(ones * np.nan, ones) == float("inf")
    assert parity.relative_error(ones[:1], ones) == float("inf")


RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 2, (4, 300)).astype(np.float32)
EXPECTED = parity.Expected(
    LOGITS.argmax(-1).tolist(), RNG.normal(0, 1, (4, 8)).astype(np.float32), parity.log_softmax(LOGITS)
)


class Led:
    """A student that gives these features and logits."""

    def __init__(self, features: np.ndarray, logits: np.ndarray) -> None:
        self.backend = SimpleNamespace(vision=lambda inputs: features)
        self.family = SimpleNamespace(positions=lambda ids, seen: (np.zeros((1, 3), np.int64), 3))
        self.logits = iter(logits)

    def ask(self, image: Any, question: str) -> Any:
        return SimpleNamespace(seen=SimpleNamespace(inputs={}), input_ids=[1, 2, 3])

    def prefill(self, ids: list[int], features: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return next(self.logits)

    def step(self, token: int, position: np.ndarray) -> np.ndarray:
        return next(self.logits)

    def best(self, logits: np.ndarray) -> int:
        return int(logits.argmax())


def shipped(change: Callable[[np.ndarray], np.ndarray], features: np.ndarray = EXPECTED.features, **more: Any) -> Any:
    return parity.shipped([EXPECTED], [(None, "what?")], Led(features, change(LOGITS)), **more)  # type: ignore[arg-type]


def test_rounding_passes_with_its_figures() -> None:
    same = shipped(lambda logits: logits)
    assert same.equal_answers == 1 and same.feature_error == 0 and same.logprob_error < 1e-3
    rounded = shipped(lambda logits: logits + RNG.normal(0, 0.2, logits.shape), EXPECTED.features * 1.1)
    assert rounded.feature_error == pytest.approx(0.1, rel=1e-5) and 0.01 < rounded.logprob_error < 0.3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda logits: logits * np.nan, "log-probabilities are not finite"),
        (lambda logits: np.where(np.arange(4)[:, None] == 3, np.nan, logits), "log-probabilities are not finite"),
        (lambda logits: logits * 0, r"the log-probabilities by \d+% .at most 50% passes"),
        (lambda logits: logits[:, ::-1], r"the log-probabilities by \d+% .at most 50% passes"),
    ],
    ids=["nan", "nan at the end", "constant", "other"],
)
def test_garbage_as_it_ships_is_no_bundle(change: Callable[[np.ndarray], np.ndarray], words: str) -> None:
    with pytest.raises(UserError, match=f"at the settings that ship .*{words}.*no bundle was written"):
        shipped(change)
    with pytest.raises(UserError, match=r"fc1 \(70,000\) passes 65,504, the largest float16; no bundle"):
        shipped(change, beyond_float16=lambda image, question: "fc1 (70,000)")


@pytest.mark.parametrize("factor", [np.nan, np.inf, 0.0])
def test_features_that_are_garbage_are_no_bundle(factor: float) -> None:
    with pytest.raises(UserError, match="picture's features are (not finite|off by 100%)"):
        shipped(lambda logits: logits, EXPECTED.features * np.float32(factor))


def test_a_runtime_that_answers_whole_is_held_to_the_same_bound() -> None:
    def told(logprobs: np.ndarray) -> Any:
        top = {
            place: {token: float(row[token]) for token in np.argsort(-row)[:20]} for place, row in enumerate(logprobs)
        }
        answer = SimpleNamespace(token_ids=EXPECTED.answer, top=top)
        backend = SimpleNamespace(answer=lambda *asked, top: answer)
        student = SimpleNamespace(backend=backend, ask=lambda *asked: None, stop_ids={2})
        return parity.shipped([EXPECTED], [(None, "what?")], student)  # type: ignore[arg-type]

    assert told(EXPECTED.logprobs).logprob_error < 1e-3 and told(EXPECTED.logprobs).feature_error is None
    for garbage in (EXPECTED.logprobs[:, ::-1], EXPECTED.logprobs * np.nan, np.full((4, 300), -np.log(300))):
        with pytest.raises(UserError, match="is garbage: its? .*log-probabilities|is garbage: .* log-probabilities by"):
            told(garbage)


def test_log_probabilities_that_are_not_numbers_are_past_any_tolerance() -> None:
    reference = SimpleNamespace(**TIE)
    logprobs = parity.log_softmax(reference.logits[0, 0])
    assert parity.logprob_error([2], {0: {2: float(logprobs[2]), 0: float("-inf")}}, reference) == 0
    assert parity.logprob_error([2], {0: {2: float("nan")}}, reference) == float("inf")


@pytest.fixture
def student() -> LoadedStudent:
    return load(bundles.student("smolvlm"))


def test_the_layer_that_passes_float16_is_named(student: LoadedStudent) -> None:
    image = tiny.picture(32, 32)
    assert finite.first_beyond(student, image, "what?", finite.LARGEST_FLOAT16) is None
    name = "model.vision_model.encoder.layers.1.mlp.fc1"
    layer = student.model.get_submodule(name)
    layer.weight.data *= 1e6
    found = finite.first_beyond(student, image, "what?", finite.LARGEST_FLOAT16)
    assert (
        found is not None
        and found.startswith(f"{name} (")
        and finite.first_beyond(student, image, "what?", 1e38) is None
    )
    layer.bias.data[0] = float("nan")
    assert finite.first_beyond(student, image, "what?", finite.LARGEST_FLOAT32) == f"{name} (not finite)"


def test_a_student_that_is_not_finite_itself_is_said_to_be(student: LoadedStudent) -> None:
    student.model.lm_head.weight.data *= 1e38
    samples = [(tiny.picture(32, 32), "what?")]
    student.model.model.text_model.norm.weight.data *= 1e38
    reference = graphs.family("smolvlm").Reference(student, *samples[0], 2)
    runner: Any = SimpleNamespace(backend=None)
    with pytest.raises(UserError, match=r"the student itself .* on sample 1 \('what\?'\), first in lm_head; no bundle"):
        parity.exact([reference], samples, runner, lambda done: None, not_finite=lambda image, question: "lm_head")


def test_weights_that_are_not_finite_are_refused_by_name(student: LoadedStudent) -> None:
    finite.check_weights(student, "the student's weights")
    student.model.model.text_model.layers[1].mlp.up_proj.weight.data[3, 4] = torch.inf
    with pytest.raises(UserError, match="the student's weights are not all finite: .*layers.1.mlp.up_proj.weight"):
        finite.check_weights(student, "the student's weights")


def test_scales_that_float16_can_not_hold_are_refused_by_name(student: LoadedStudent) -> None:
    student.model.model.text_model.layers[0].mlp.up_proj.weight.data *= 1e9
    with pytest.raises(UserError, match="layers.0.mlp.up_proj.weight"):
        quantize(student, plan("int4"))
        finite.check_weights(student, "the weights as int4")


def test_pytorch_answers_greedily_whatever_the_checkpoints_settings_say(student: LoadedStudent, tmp_path: Path) -> None:
    """And so does the bundle, in every runtime that reads them; all its ends are kept."""
    ask = lambda: graphs.family("smolvlm").Reference(student, tiny.picture(32, 32), "what?", 12).answer  # noqa: E731
    plain = ask()
    own = student.model.generation_config
    own.update(repetition_penalty=1.5, do_sample=True, temperature=1e-6, num_beams=2, eos_token_id=[2, 5])
    assert ask() == plain
    write_settings(student, tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written.pop("transformers_version")
    assert written == dict(do_sample=False, eos_token_id=[2, 5], bos_token_id=1, pad_token_id=0, max_new_tokens=12)
    own.eos_token_id = None
    write_settings(student, tmp_path)
    assert (
        json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"]
        == student.processor.tokenizer.eos_token_id
    )
