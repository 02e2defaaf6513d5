"""Dynamic rotary positions, as published InternVL3 checkpoints have them, are plain ones up to the context."""

import torch

from masters_edge.families import load_model, rotary
from tests.export import bundles


@torch.no_grad()
def test_plain_frequencies_are_the_same_numbers_up_to_the_context() -> None:
    model = load_model(str(bundles.student("internvl3")))
    text = model.config.get_text_config()
    assert rotary.kind(text) == "dynamic"
    ids = torch.randint(50, 300, (1, text.max_position_embeddings), generator=torch.Generator().manual_seed(0))
    theirs = model(input_ids=ids).logits
    rotary.plain(model)
    assert (rotary.kind(text), text.rope_parameters["rope_theta"]) == ("default", 1e6)
    assert torch.equal(model(input_ids=ids).logits, theirs)
    rotary.plain(model)  # nothing more to do
