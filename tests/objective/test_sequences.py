"""Response logits from packed rows against one plain forward pass of transformers per response."""

from pathlib import Path

import torch

from masters_edge.data import easy_vqa
from masters_edge.families import load_model, load_processor
from masters_edge.families.base import family_of
from masters_edge.families.prompts import Prompter
from masters_edge.objective import sequences


def test_logits_predict_the_response_and_share_the_image(models: Path) -> None:
    model, processor = load_model(str(models / "student")), load_processor(str(models / "student"))
    family = family_of(model.config)
    prompter = Prompter(processor, family)
    questions = [easy_vqa.read("train")[i] for i in (0, 40)]
    prompts, images = zip(*(prompter(q) for q in questions))
    responses, owner = [[20, 21, 22], [23], [24, 25]], [0, 0, 1]
    batch = sequences.pack(prompts, images, responses, owner, prompter.tokenizer.pad_token_id)
    with torch.no_grad():
        found = sequences.response_logits(model, family, batch)
        for row, (response, question) in enumerate(zip(responses, owner)):
            ids = torch.tensor([prompts[question] + response])
            whole = model(input_ids=ids, **images[question]).logits[0, len(prompts[question]) - 1 : -1]
            torch.testing.assert_close(found[row, : len(response)], whole, atol=2e-5, rtol=1e-4)
    assert sequences.response_mask(responses).tolist() == [[True] * 3, [True, False, False], [True, True, False]]


def test_a_label_becomes_the_tokens_the_chat_template_writes(models: Path) -> None:
    processor = load_processor(str(models / "student"))
    prompter = Prompter(processor, family_of(load_model(str(models / "student")).config))
    question = easy_vqa.read("train")[0]
    ids = prompter.response_ids(question, "yes")
    assert processor.tokenizer.decode(ids) == " yes<end_of_utterance>"
