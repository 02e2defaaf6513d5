"""InternVL: pictures of any size become tiles, tiles features and tokens logits, as in transformers."""

import functools
import itertools

import numpy as np
import pytest
import torch

from masters_edge.common.errors import UserError
from masters_edge.export import export_student
from masters_edge.export.graphs import internvl
from masters_edge.export.quantize.weights import layers_of
from masters_edge.export.student import LoadedStudent, load
from masters_edge.runtime.families.internvl import preprocess
from tests import tiny
from tests.export import bundles

FAMILIES = ["internvl3", "internvl3_5"]


@functools.lru_cache
def student(family: str) -> LoadedStudent:
    return load(bundles.student(family))


@functools.lru_cache
def program(family: str, part: str):
    """The captured part, as a function."""
    found = {p.name: p for p in internvl.parts(student(family))}
    return found[part].capture().module()


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("tiles", [1, 2, 7])
def test_vision(tiles: int) -> None:
    torch.manual_seed(tiles)
    pixels = torch.randn(tiles, 3, tiny.SIDE, tiny.SIDE)
    theirs = student("internvl3").model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
    ours = program("internvl3", "vision_encoder")(pixels)
    assert ours.shape == (tiles, tiny.IMAGE_SEQ_LEN, 64)
    assert_close(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("splits", [[9], [4, 5], [7, 1, 1]])
def test_decoder_over_any_past(family: str, splits: list[int]) -> None:
    torch.manual_seed(0)
    model = student(family).model
    embeds, mask = torch.randn(2, 9, 64), torch.ones(2, 9, dtype=torch.long)
    mask[1, :3] = 0  # left padding
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    hidden = model.model.language_model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions)
    theirs = model.lm_head(hidden.last_hidden_state)
    past = [torch.zeros(2, 2, 0, 16) for _ in range(4)]
    done, steps = 0, []
    for count in splits:
        end = done + count
        logits, *past = program(family, "decoder")(embeds[:, done:end], mask[:, :end], positions[:, done:end], past)
        steps.append(logits)
        done = end
    seen = mask.bool()  # what stands on padding is nobody's
    assert_close(torch.cat(steps, dim=1)[seen], theirs[seen])


@pytest.mark.wide
@pytest.mark.parametrize("family", FAMILIES)
def test_export_passes_the_gate(family: str) -> None:
    manifest = export_student(
        student(family).folder,
        target="onnx",
        scheme="fp32",
        out=bundles.root() / f"{family}-graphs-bundle",
        samples=[(tiny.picture(32, 32), "what is in this image?"), (tiny.picture(20, 90), "is there a triangle?")],
    )
    exact = manifest.parity.exact
    assert exact.equal_answers == 1.0
    assert all(part.max_relative_error <= 1e-5 for part in exact.parts.values())


def test_every_weight_has_the_students_name() -> None:
    for family in FAMILIES:
        names = set(student(family).model.state_dict())
        for part in internvl.parts(student(family)):
            found = {part.student_name(name) for name, _ in part.module.named_parameters()}
            assert found <= names, part.name
        assert {part: len(layers) for part, layers in layers_of(student(family)).items()} == {
            "vision": 12,
            "connector": 2,
            "embeddings": 1,
            "decoder": 14,
            "head": 1,
        }


def test_other_layers_of_the_tower_are_refused() -> None:
    config = student("internvl3").model.config
    config.vision_feature_layer = -2
    try:
        with pytest.raises(UserError, match="vision_feature_layer -2; an InternVL can be exported with -1 only"):
            internvl.parts(student("internvl3"))
    finally:
        config.vision_feature_layer = -1


@pytest.mark.parametrize(("fewest", "most"), [(1, 12), (1, 1), (2, 6), (3, 3)])
def test_tiles_equal_transformers(fewest: int, most: int) -> None:
    processor = student("internvl3").processor
    text = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], add_generation_prompt=True)
    settings = processor.image_processor.to_dict() | {"min_patches": fewest, "max_patches": most}
    asked = {"min_patches": fewest, "max_patches": most}
    for width, height in itertools.product([1, 16, 32, 47, 64, 200], [1, 31, 45, 64, 128]):
        image = tiny.picture(width, height)
        theirs = processor(text=text, images=[image], images_kwargs=asked, return_tensors="np")["pixel_values"]
        ours = preprocess(image, settings)
        assert ours.count == len(theirs)
        assert np.abs(ours.inputs["pixel_values"] - theirs).max() <= 1e-6, (width, height)
