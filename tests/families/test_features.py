"""Image features that are kept stand for the pixels: same hidden states, same responses, fewer encodings."""

from pathlib import Path

import pytest
import torch

from masters_edge.data.records import Question
from masters_edge.engines import sampled
from masters_edge.engines.transformers import Engine
from masters_edge.families import load_model
from masters_edge.families.features import ImageFeatures
from masters_edge.families.prompts import Prompter
from masters_edge.objective import sequences
from masters_edge.recipe.schema import Responses
from tests.tiny import FAMILIES, picture


@pytest.fixture
def questions(tmp_path: Path) -> list[Question]:
    sizes = [(64, 48), (40, 64), (64, 48)]
    for number, (width, height) in enumerate(sizes):
        picture(width, height, seed=number).save(tmp_path / f"{number}.png")
    return [Question(f"{n}", f"what is {n}?", tmp_path / f"{n % 3}.png", f"{n % 3}") for n in range(6)]


@pytest.mark.parametrize("family", ["smolvlm", "idefics3", "qwen3_vl"])
def test_features_stand_for_pixels(family: str, tmp_path: Path, questions: list[Question], monkeypatch) -> None:
    source = str(FAMILIES[family](tmp_path / "model"))
    model, prompter = load_model(source).double(), Prompter.load(source)
    encoded: list[int] = []
    features = ImageFeatures(model, prompter.family)
    original = prompter.family.image_features
    monkeypatch.setattr(
        type(prompter.family),
        "image_features",
        lambda self, m, images: encoded.append(len(images["pixel_values"])) or original(m, images),
    )

    def hidden(kept: bool) -> torch.Tensor:
        prompts, images = zip(*(prompter(question) for question in questions))
        batch = sequences.pack(prompts, images, [[40, 41, 42]] * 6, range(6), prompter.tokenizer.pad_token_id)
        inputs = features.inputs([question.image_id for question in questions], images) if kept else None
        with torch.no_grad():
            return sequences.response_hidden(model, prompter.family, batch, inputs)

    torch.testing.assert_close(hidden(kept=True), hidden(kept=False), atol=1e-9, rtol=1e-9)
    hidden(kept=True)
    assert encoded == ([3] if prompter.family.gives_features(model) else [])  # six questions, asked twice
    assert prompter.family.gives_features(model) == (family != "qwen3_vl")

    requests = [sampled(question, 3, 0, "teacher") for question in questions]
    answer = lambda kept: Engine(model, prompter, 4, 64, kept).answer(requests, Responses())  # noqa: E731
    assert answer(features) == answer(None)


def test_few_are_kept_and_learning_forgets_them(tmp_path: Path, questions: list[Question]) -> None:
    source = str(FAMILIES["smolvlm"](tmp_path / "model"))
    model, prompter = load_model(source), Prompter.load(source)
    ids, images = [q.image_id for q in questions], [prompter(q)[1] for q in questions]
    features = ImageFeatures(model, prompter.family, limit=1)
    first = features.inputs(ids, images)["mm_encoder_outputs"]["image"].pooler_output
    assert not features._kept and len(first) == 6
    engine = Engine(model, prompter, 4, 64)
    before = engine.greedy(questions)
    with torch.no_grad():
        for parameter in model.base_model.vision_model.parameters():
            parameter.mul_(-1)
    assert engine.greedy(questions) != before
