"""LLaVA-OneVision: whole picture and tiles become the features transformers packs, for every shape of picture."""

import functools
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from masters_edge.export import export_student
from masters_edge.export.graphs import llava_onevision as family
from masters_edge.export.quantize.weights import layers_of
from masters_edge.export.student import LoadedStudent, load
from masters_edge.runtime.families.llava_onevision import packing, preprocess
from tests import tiny
from tests.export import bundles

SIZES = [(32, 32), (64, 64), (70, 51), (20, 90), (200, 30), (33, 128), (5, 7), (1, 60)]


@functools.lru_cache
def student() -> LoadedStudent:
    return load(bundles.student("llava_onevision"))


@functools.lru_cache
def program(part: str):
    """The captured part, as a function."""
    found = {p.name: p for p in family.parts(student())}
    return found[part].capture().module()


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_vision(size: tuple[int, int]) -> None:
    processor, model = student().processor, student().model
    image = tiny.picture(*size)
    seen = processor.image_processor(images=[image], return_tensors="pt")
    theirs = model.get_image_features(
        pixel_values=seen["pixel_values"], image_sizes=seen["image_sizes"], return_dict=True
    ).pooler_output[0]
    geometry = packing((size[1], size[0]), model.config.to_dict())
    ours = program("vision_encoder")(
        torch.from_numpy(preprocess(image, processor.image_processor.to_dict())),
        torch.from_numpy(geometry["feature_rows"]),
        torch.from_numpy(geometry["feature_weights"]),
    )
    assert_close(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize("layer", [-2, [-2, 0]])
def test_other_layers_of_the_tower(layer: int | list[int]) -> None:
    config = student().model.config
    torch.manual_seed(0)
    pixels = torch.randn(3, 3, tiny.SIDE, tiny.SIDE)
    tower = student().model.model.vision_tower
    hidden = tower(pixels, output_hidden_states=True).hidden_states
    chosen = [layer] if isinstance(layer, int) else layer
    features = torch.cat([hidden[at] for at in chosen], dim=-1)
    keep = torch.arange(3 * 16)
    rows, weights = torch.stack([keep] * 4, dim=-1), torch.tensor([[1.0, 0, 0, 0]]).expand(48, 4)
    config.vision_feature_layer = layer
    try:
        encoder = family.VisionEncoder(student().model)
    finally:
        config.vision_feature_layer = -1
    encoder.multi_modal_projector = torch.nn.Identity()
    encoder.image_newline = torch.nn.Parameter(torch.zeros(features.shape[-1]))
    assert_close(encoder(pixels, rows, weights), features.flatten(0, 1))


@pytest.mark.parametrize("most", [1, 2, 9])
@pytest.mark.parametrize(
    ("side", "patch", "pinpoints"),
    [(32, 8, "tiny"), (384, 14, "real")],
)
def test_packing_equals_transformers(side: int, patch: int, pinpoints: str, most: int) -> None:
    chosen = {
        "tiny": student().model.config.image_grid_pinpoints,
        "real": LlavaOnevisionImageProcessorPil.image_grid_pinpoints,
    }[pinpoints]
    vision = SimpleNamespace(image_size=side, patch_size=patch)
    model = SimpleNamespace(config=SimpleNamespace(vision_config=vision, image_grid_pinpoints=chosen))
    settings = {
        "vision_config": vars(vision),
        "image_grid_pinpoints": chosen,
        "vision_aspect_ratio": f"anyres_max_{most}",
    }
    torch.manual_seed(0)
    newline = torch.randn(3)
    for height, width in itertools.product([1, 20, 64, 333, 1000], [2, 45, 64, 480, 3000]):
        ours = packing((height, width), settings)
        rows, weights = ours["feature_rows"], ours["feature_weights"]
        tiles = len(preprocess(tiny.picture(width, height), {"size": {"height": side, "width": side}} | _still(chosen)))
        features = torch.randn(tiles, (side // patch) ** 2, 3)
        table = torch.cat([features.flatten(0, 1), newline[None]]).numpy()
        packed, _ = LlavaOnevisionModel.pack_image_features(
            model, [features], [(height, width)], newline, f"anyres_max_{most}"
        )
        theirs = packed[0].numpy()
        assert rows.dtype == np.int64 and weights.dtype == np.float32 and len(rows) == len(theirs)
        found = (table[rows] * weights[..., None]).sum(axis=1)
        assert np.abs(found - theirs).max() <= 1e-5, (height, width)


def _still(pinpoints: list) -> dict:
    """Settings that leave pixels as they are: here only their number counts."""
    return {"image_grid_pinpoints": pinpoints, "do_rescale": False, "do_normalize": False}


@pytest.mark.wide
def test_export_passes_the_gate() -> None:
    manifest = export_student(
        student().folder,
        target="onnx",
        scheme="fp32",
        out=bundles.root() / "llava-graphs-bundle",
        samples=[(tiny.picture(*size), bundles.QUESTIONS[i % 3]) for i, size in enumerate(SIZES[:4])],
    )
    exact = manifest.parity.exact
    assert exact.equal_answers == 1.0
    assert all(part.max_relative_error <= 1e-5 for part in exact.parts.values())


def test_every_weight_has_the_students_name() -> None:
    names = set(student().model.state_dict())
    for part in family.parts(student()):
        assert {part.student_name(name) for name, _ in part.module.named_parameters()} <= names, part.name
    assert {part: len(layers) for part, layers in layers_of(student()).items()} == {
        "vision": 12,
        "connector": 2,
        "embeddings": 1,
        "decoder": 14,
        "head": 1,
    }
