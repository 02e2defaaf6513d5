"""Rows of prompt and responses: what stands where, and who may look at whom."""

from pathlib import Path

import torch

from masters_edge.data import easy_vqa
from masters_edge.families import load_config, load_processor
from masters_edge.families.base import family_of
from masters_edge.families.prompts import Prompter
from masters_edge.objective import sequences

PROMPTS = [[7, 8, 9], [7]]
RESPONSES = [[20, 21, 22], [30], [40, 41]]  # the first and the last belong to question 0


def packed() -> dict:
    return sequences.pack(PROMPTS, [{}, {}], RESPONSES, [0, 1, 0], pad=0)


def test_a_row_holds_the_prompt_and_its_responses_without_their_last_tokens() -> None:
    batch = packed()
    assert batch["input_ids"].tolist() == [[7, 8, 9, 20, 21, 40], [7, 0, 0, 0, 0, 0]]
    assert batch["segments"].tolist() == [[0, 0, 0, 1, 1, 2], [0, -1, -1, -1, -1, -1]]
    assert batch["offsets"].tolist() == [[0, 0, 0, 0, 1, 0], [0] * 6]
    where = list(zip(batch["at_row"].tolist(), batch["at_column"].tolist()))
    assert where == [(0, 2), (0, 3), (0, 4), (1, 0), (0, 2), (0, 5)]
    assert sequences.response_slices(RESPONSES) == [slice(0, 3), slice(3, 4), slice(4, 6)]
    assert sequences.response_means(torch.arange(6.0), RESPONSES).tolist() == [1.0, 3.0, 4.5]


def test_a_response_of_no_tokens_takes_no_place() -> None:
    batch = sequences.pack(PROMPTS, [{}, {}], [[20, 21], [], [40, 41], []], [0, 0, 0, 1], pad=0)
    assert batch["input_ids"].tolist() == [[7, 8, 9, 20, 40], [7, 0, 0, 0, 0]]
    where = list(zip(batch["at_row"].tolist(), batch["at_column"].tolist()))
    assert where == [(0, 2), (0, 3), (0, 2), (0, 4)]
    means = sequences.response_means(torch.arange(4.0), [[20, 21], [], [40, 41], []])
    assert means[[0, 2]].tolist() == [0.5, 2.5] and means[[1, 3]].isnan().all()
    assert sequences.pack([[7]], [{}], [[]], [0], pad=0)["at_row"].dtype == torch.int64


def test_responses_see_the_prompt_and_themselves_only() -> None:
    mask = sequences.block_mask(packed()["segments"])[:, 0].int().tolist()
    assert mask[0] == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],
    ]
    assert [row[0] for row in mask[1]] == [1] * 6 and mask[1][3] == [1, 0, 0, 1, 0, 0]


def test_a_label_becomes_the_tokens_the_chat_template_writes(models: Path) -> None:
    processor = load_processor(str(models / "student"))
    config = load_config(str(models / "student"))
    prompter = Prompter(processor, family_of(config), config)
    question = easy_vqa.read("train")[0]
    ids = prompter.response_ids(question, "yes")
    assert processor.tokenizer.decode(ids) == " yes<end_of_utterance>"
