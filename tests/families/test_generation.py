"""Of a checkpoint's generation_config.json the end tokens count, all of them, and nothing else."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from masters_edge.data import easy_vqa
from masters_edge.engines import Request, Speaker, sampled, tokens
from masters_edge.engines.transformers import Engine
from masters_edge.families import generation, load_model
from masters_edge.families.prompts import Prompter
from masters_edge.recipe.schema import Responses

# What published checkpoints have in it, and what else transformers would take from there.
LEAKS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3, "do_sample": True, "temperature": 1e-6, "top_k": 1},
    {"no_repeat_ngram_size": 1},
    {"min_new_tokens": 6},
    {"forced_eos_token_id": 2, "max_length": 4},
    {"bad_words_ids": [[token] for token in range(50, 120)]},
    {"num_beams": 3, "num_return_sequences": 2},
    {"stop_strings": ["e"], "guidance_scale": 3.0, "suppress_tokens": list(range(40, 200))},
]


@pytest.fixture(scope="module")
def engine(models: Path) -> Engine:
    source = str(models / "student")
    return Engine(load_model(source), Prompter.load(source), 6, 8)


def answers(engine: Engine) -> list[list[list[int]]]:
    """A greedy answer, and two drawn ones."""
    question = easy_vqa.read("train")[0]
    return engine.answer([Request(question), sampled(question, 2, 0)], Responses(repetition_penalty=1.0))


@pytest.fixture(scope="module")
def plain(engine: Engine) -> list[list[list[int]]]:
    return answers(engine)


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: next(iter(leak)))
def test_nothing_leaks_into_greedy_or_sampled_answers(
    engine: Engine, plain: list[list[list[int]]], leak: dict[str, Any]
) -> None:
    own = engine.model.generation_config
    before = own.to_dict()
    try:
        own.update(**leak)
        assert answers(engine) == plain
        assert engine.model.generation_config is own and own.to_dict() == before | leak  # and nothing is lost from it
    finally:
        own.update(**{name: before.get(name) for name in leak})


@pytest.mark.parametrize(
    ("named", "own", "expected"),
    [(None, 7, [7]), (2, 7, [2]), ([9, 7, 4], 7, [7, 9, 4]), ([9, 4], None, [9, 4]), (None, None, [])],
)
def test_all_ends_of_the_settings_count_or_else_the_tokenizers(named: Any, own: Any, expected: list[int]) -> None:
    settings, tokenizer = SimpleNamespace(eos_token_id=named), SimpleNamespace(eos_token_id=own)
    assert generation.end_ids(settings, tokenizer) == expected


def test_every_engine_has_the_same_ends(models: Path, tmp_path: Path) -> None:
    """With a file and without one, where a loaded model takes them from its config."""
    source = str(models / "student")
    prompter = Prompter.load(source)
    with_file = Engine(load_model(source), prompter, 6, 8).end_ids
    assert tokens.end_ids(Speaker(prompter, source)) == with_file
    for file in (models / "student").iterdir():
        if file.name != "generation_config.json":
            (tmp_path / file.name).symlink_to(file)
    bare = str(tmp_path)
    assert tokens.end_ids(Speaker(Prompter.load(bare), bare)) == Engine(load_model(bare), prompter, 6, 8).end_ids


def test_adapters_lend_no_settings_either(engine: Engine) -> None:
    """What hands `generate` on to a model inside it, as peft does, gives that model its settings back."""

    class Adapted:
        def __getattr__(self, name: str) -> Any:
            return getattr(engine.model, name)

    own = engine.model.generation_config
    ids, image = engine.prompter(easy_vqa.read("train")[0])
    import torch

    inputs = {"input_ids": torch.tensor([ids]), **image}
    found = generation.generate(Adapted(), inputs, ends=[2], pad=0, max_new_tokens=2)
    assert found.shape[1] <= len(ids) + 2 and engine.model.generation_config is own
