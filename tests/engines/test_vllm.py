"""What is asked of vLLM, and the masked checkpoints it is given. The module is a stand-in with vLLM's signatures."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from masters_edge.common import processes
from masters_edge.common.errors import UserError
from masters_edge.data.records import Question
from masters_edge.engines import Request, Speaker, open_engine, sampled, vllm
from masters_edge.engines.prompts import unexpanded
from masters_edge.engines.transformers import Engine
from masters_edge.engines.vllm import VllmEngine
from masters_edge.families import load_model
from masters_edge.recipe import Recipe
from masters_edge.recipe.schema import Responses, Vllm
from masters_edge.teacher.masking import activation_norms, mask_
from masters_edge.teacher.norms import path

SAMPLING = Responses(max_new_tokens=6)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(Path(__file__).parent / "stand_in")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
    import vllm

    yield vllm
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]


def plain(speaker: Speaker, model: Any = None) -> Engine:
    model = load_model(speaker.source) if model is None else model
    return Engine(model, speaker.prompter, SAMPLING.max_new_tokens, 16)


def test_greedy_and_seeded(stand_in: Any, student: Speaker, questions: list[Question], tmp_path: Path) -> None:
    greedy, heard = [Request(question) for question in questions], []
    requests = [greedy[0], *(sampled(question, 3, 1) for question in questions), greedy[1]]
    with VllmEngine(SAMPLING, student, tmp_path) as engine:
        answers = engine.answer(requests, SAMPLING, heard.append)
        assert engine.answer(requests[::-1], SAMPLING)[::-1] == answers and sum(heard) == len(requests)
        assert engine.answer(greedy) == plain(student).answer(greedy)
        assert engine.name == f"vllm {stand_in.__version__} float32"
    assert [len(group) for group in answers] == [1, 3, 3, 3, 3, 3, 3, 1]
    assert len({tuple(ids) for group in answers[1:7] for ids in group}) > 9
    assert not {token for group in answers for ids in group for token in ids} & set(student.placeholders)
    (llm,) = stand_in.STARTED
    assert llm.heard == [
        "sleep",
        *("wake up", "generate 20", "sleep") * 2,
        "wake up",
        "generate 6",
        "sleep",
        "shutdown",
    ]
    assert not list(tmp_path.iterdir())


def test_what_vllm_is_told(stand_in: Any, student: Speaker, questions: list[Question], tmp_path: Path) -> None:
    own = Responses(max_new_tokens=6, vllm=Vllm(tensor_parallel=2, gpu_memory=0.4, max_model_len=300), top_k=7)
    engine = VllmEngine(own, student, tmp_path, dtype="float32")
    engine.answer([Request(questions[0])])
    (llm,) = stand_in.STARTED
    assert (llm.tensor_parallel_size, llm.gpu_memory_utilization, llm.max_model_len, llm.dtype) == (
        2,
        0.4,
        300,
        "float32",
    )
    assert llm.limit_mm_per_prompt == {"image": 1, "video": 0}
    params = engine._params(own, 2**63 + 5)
    (image,) = student.placeholders
    expected = dict(temperature=1.0, top_p=0.9, top_k=7, repetition_penalty=1.05, max_tokens=6, seed=5)
    assert vars(params) == expected | {"logit_bias": {image: -100.0}, "detokenize": False}
    greedy = engine._params()
    assert (greedy.temperature, greedy.top_p, greedy.top_k, greedy.repetition_penalty, greedy.seed) == (
        0,
        1,
        0,
        1,
        None,
    )


def test_many_are_handed_over_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "_AT_ONCE", 5)
    question = Question("1", "what?", b"", "1")
    requests = [Request(question, tuple(range(size))) for size in (2, 3, 1, 4, 7, 1)]
    blocks = [[len(request.seeds) for request in block] for block in vllm._blocks(requests)]
    assert blocks == [[2, 3], [1, 4], [7], [1]] and not list(vllm._blocks([]))


@pytest.mark.parametrize("mask", [{}, {"include": ["*mlp*"]}, {"exclude": ["*embed*"]}])
def test_a_masked_teacher_is_trainings_own(
    mask: dict[str, Any],
    stand_in: Any,
    teacher: Callable[..., Speaker],
    questions: list[Question],
    tmp_path: Path,
    models: Path,
    tiny_recipe: Path,
) -> None:
    speaker = teacher(0.3, **mask)
    recipe = Recipe.model_validate(
        {"student": "s", "teachers": ["t"], "data": {"train": {"source": "x"}}, "responses": SAMPLING.model_dump()}
    )
    greedy = [Request(question) for question in questions]
    with open_engine("vllm", recipe, speaker, tmp_path / "room") as engine:
        found = engine.answer(greedy)
        (folder,) = (path for path in (tmp_path / "room").iterdir() if path.is_dir())
        written = load_model(str(folder)).state_dict()
    assert not list((tmp_path / "room").iterdir())
    model = load_model(speaker.source)
    mask_(model, 0.3, **mask)
    expected = model.state_dict()
    assert written.keys() == expected.keys() and all(torch.equal(written[name], expected[name]) for name in expected)
    assert found == plain(speaker, model).answer(greedy) != plain(teacher()).answer(greedy)


def test_a_teacher_masked_by_activations(
    stand_in: Any, teacher: Callable[..., Speaker], questions: list[Question], tmp_path: Path
) -> None:
    model = load_model(teacher().source)
    with activation_norms(model) as norms:
        plain(teacher(), model).greedy(questions[:2])
    place = path(tmp_path, 0)
    place.parent.mkdir()
    save_file(norms, place)
    teacher(0.3, run=tmp_path, score="activation").write(tmp_path / "masked")
    mask_(model, 0.3, norms=norms)
    written = load_model(str(tmp_path / "masked")).state_dict()
    assert all(torch.equal(written[name], value) for name, value in model.state_dict().items())


def test_refusals(
    stand_in: Any,
    student: Speaker,
    questions: list[Question],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = Responses(vllm=Vllm(max_model_len=10))
    asked = [Request(questions[0])]
    with (
        VllmEngine(short, student, tmp_path) as engine,
        pytest.raises(UserError, match="vLLM refuses a request of the student: The decoder prompt"),
    ):
        engine.answer(asked)
    with (
        VllmEngine(SAMPLING, student, tmp_path, no_such_option=1) as engine,
        pytest.raises(UserError, match="can't start the student .*no_such_option.*gpu_memory"),
    ):
        engine.answer(asked)
    with monkeypatch.context() as patch:
        patch.setattr(vllm, "unexpanded", lambda prompter, question: [77, *unexpanded(prompter, question)])
        with VllmEngine(SAMPLING, student, tmp_path) as engine, pytest.raises(UserError, match="from token 0 on"):
            engine.answer(asked)
    with monkeypatch.context() as patch:
        patch.setattr(processes, "state", lambda: SimpleNamespace(num_processes=2))
        with pytest.raises(UserError, match="in 2 processes"):
            VllmEngine(SAMPLING, student, tmp_path)


@pytest.mark.skipif("vllm" in sys.modules, reason="vLLM is here")
def test_without_vllm(student: Speaker, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="isn't installed: pip install vllm"):
        VllmEngine(SAMPLING, student, tmp_path)
