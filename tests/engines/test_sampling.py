"""Sampling: the right distribution, and the same responses whatever the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from masters_edge.data import easy_vqa
from masters_edge.engines import Request, sampled
from masters_edge.engines.sampling import SeededSampling, row_seed
from masters_edge.engines.transformers import Engine
from masters_edge.families import load_model, load_processor
from masters_edge.families.base import family_of
from masters_edge.families.prompts import Prompter
from masters_edge.recipe.schema import Responses


def test_draws_follow_the_distribution() -> None:
    scores = torch.log(torch.tensor([0.5, 0.3, 0.0, 0.2])).repeat(4000, 1)
    sampler = SeededSampling([row_seed("row", i) for i in range(4000)], 5, 3)
    left = sampler(torch.zeros(4000, 6, dtype=torch.long), scores)
    assert (torch.isfinite(left).sum(-1) == 1).all()
    shares = np.bincount(left.argmax(-1).numpy(), minlength=4) / 4000
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.0, 0.2], atol=0.03)


@pytest.fixture
def engines(models: Path):
    model, processor = load_model(str(models / "teacher")), load_processor(str(models / "teacher"))
    family = family_of(model.config)
    return lambda batch: Engine(model, Prompter(processor, family, model.config), 6, batch)


def test_responses_do_not_depend_on_the_batch(engines) -> None:
    questions = easy_vqa.read("train")[:6]
    requests = [sampled(q, 3, 0, "teacher", 0) for q in questions] + [Request(q) for q in questions]
    sampling = Responses(max_new_tokens=6)
    one = engines(1).answer(requests, sampling)
    assert one == engines(7).answer(requests, sampling) == engines(64).answer(requests, sampling)
    assert [len(responses) for responses in one] == [3] * 6 + [1] * 6
    assert len({tuple(ids) for responses in one[:6] for ids in responses}) > 6  # they do vary
    assert engines(64).answer([sampled(q, 3, 1, "teacher", 0) for q in questions], sampling) != one[:6]


@pytest.mark.wide
def test_greedy_is_what_transformers_answers(engines) -> None:
    question = easy_vqa.read("train")[3]
    engine = engines(4)
    ids, image = engine.prompter(question)
    out = engine.model.generate(
        input_ids=torch.tensor([ids]),
        **image,
        max_new_tokens=6,
        do_sample=False,
        suppress_tokens=[engine.model.config.image_token_id],
    )
    assert engine.answer([Request(question)])[0][0] == engine._cut(out[0, len(ids) :].tolist())
