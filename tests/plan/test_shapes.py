"""Parameters by part: equal to the built model's, and to what is published of real checkpoints."""

import json
from pathlib import Path

import pytest
import torch

from masters_edge.common.errors import UserError
from masters_edge.families import load_model
from masters_edge.objective import sequences
from masters_edge.plan import prompts
from masters_edge.plan.published import PARAMETERS_B, SHAPES
from masters_edge.plan.shapes import PARTS, shape
from masters_edge.plan.tokens import Work
from tests import tiny, wide


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_parameters_are_those_of_the_built_model(tmp_path: Path, family: str) -> None:
    folder = tiny.FAMILIES[family](tmp_path / "model")
    found, model = shape(str(folder)), load_model(str(folder))
    assert found.total == sum(p.numel() for p in model.parameters())
    assert found.parameters["embeddings"] == model.get_input_embeddings().weight.numel()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (found.parameters["head"] == 0) == tied
    assert set(found.parameters) == set(PARTS) and all(found.parameters[part] for part in ("vision", "decoder"))
    assert all(p.is_meta for p in found.model.parameters())
    alone = shape(str(folder / "config.json"))
    assert alone.parameters == found.parameters and alone.origin == str(folder / "config.json")


@pytest.mark.parametrize("name", SHAPES)
def test_published_shapes_have_the_published_parameters(name: str) -> None:
    found = shape(name)
    assert found.total / 1e9 == pytest.approx(PARAMETERS_B[name], rel=0.005)
    assert found.dtype == torch.bfloat16 and "come with masters-edge" in found.origin


def test_no_config_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be had .*--config-of some/model=config.json"):
        shape("some/model")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="no transformers config"):
        shape("some/model", {"some/model": str(tmp_path / "config.json")})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="no family of that type is built in"):
        shape("some/model", {"some/model": str(tmp_path / "config.json")})


@pytest.mark.parametrize("family", wide.cells(tiny.FAMILIES, ["smolvlm"]))
def test_flops_are_those_of_the_grouped_forward(tmp_path: Path, family: str) -> None:
    """Against torch's own counter, which counts matrix products alone."""
    from torch.utils.flop_counter import FlopCounterMode

    found = shape(str(tiny.FAMILIES[family](tmp_path / "model")))
    given = prompts.prompt(found, "nowhere", [], None)
    model = load_model(found.name)
    model.set_attn_implementation("eager")
    batch = sequences.pack([given.ids], [given.image], [[12] * 9] * 4, [0] * 4, 0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        sequences.response_hidden(model, found.family, batch)
    expected = Work.of(found, given.image).forward(1, batch["input_ids"].shape[1], 0)
    assert expected == pytest.approx(counter.get_total_flops(), rel=0.2)
