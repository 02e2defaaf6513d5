"""The Qwens' graphs compute what the models compute: any grid, several pictures, frames, any past, DeepStack."""

import functools

import numpy as np
import onnxruntime as ort
import pytest
import torch

from masters_edge.bundle import manifest as manifests
from masters_edge.export.gate import bisect
from masters_edge.export.graphs import qwen_vl
from masters_edge.export.student import LoadedStudent, load
from tests import tiny, wide
from tests.export import bundles

FAMILIES = ["qwen2_5_vl", "qwen3_vl"]
HIDDEN, LAYERS, KV_HEADS, HEAD = 64, 3, 2, 16
ACROSS = 3 * 2 * 8 * 8  # values of a patch


@functools.lru_cache
def student(family: str) -> LoadedStudent:
    return load(bundles.student(family))


@functools.lru_cache
def session(family: str, part: str) -> ort.InferenceSession:
    path = bundles.exported(family, "fp32") / "onnx" / f"{part}.onnx"
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def assert_close(ours: np.ndarray, theirs: torch.Tensor) -> None:
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def features(model, pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """transformers' own, DeepStack's levels behind them."""
    found = model.model.visual(pixels, grid_thw=grid, return_dict=True)
    return torch.cat([found.pooler_output, *(getattr(found, "deepstack_features", None) or [])], dim=-1)


@pytest.mark.wide
@pytest.mark.parametrize("family", wide.cells(FAMILIES, ["qwen3_vl"]))
def test_the_gate_is_passed(family: str) -> None:
    exact = manifests.check(bundles.exported(family, "fp32")).parity.exact
    assert max(part.max_relative_error for part in exact.parts.values()) < 1e-5
    assert exact.parts["embed_tokens"].max_relative_error == 0
    assert exact.equal_answers == 1


@torch.no_grad()
@pytest.mark.parametrize("family", wide.cells(FAMILIES, ["qwen3_vl"]))
@pytest.mark.parametrize(
    "grid",
    [
        [[1, 2, 2]],
        [[1, 4, 4]],
        [[1, 10, 6]],  # windows that the picture doesn't fill
        [[1, 2, 14]],
        [[1, 4, 6], [1, 4, 6]],
        [[1, 6, 4], [1, 4, 6], [1, 2, 10]],
        [[3, 4, 6], [1, 8, 2]],  # frames
    ],
)
def test_vision(family: str, grid: list[list[int]]) -> None:
    torch.manual_seed(0)
    grids = torch.tensor(grid)
    pixels = torch.randn(int(grids.prod(-1).sum()), ACROSS)
    feed = {"pixel_values": pixels.numpy(), "image_grid_thw": grids.numpy()}
    found = session(family, "vision_encoder").run(None, feed)[0]
    assert_close(found, features(student(family).model, pixels, grids))


@torch.no_grad()
@pytest.mark.parametrize("family", wide.cells(FAMILIES, ["qwen3_vl"]))
@pytest.mark.parametrize("splits", [[11], [4, 7], [8, 1, 1, 1], [1, 10]])
def test_decoder_over_any_past(family: str, splits: list[int]) -> None:
    torch.manual_seed(0)
    model = student(family).model
    levels = 2 if family == "qwen3_vl" else 0
    mask = torch.ones(2, 11, dtype=torch.long)
    mask[1, :3] = 0  # left padding
    pictures = torch.zeros(2, 11, dtype=torch.bool)
    pictures[0, 1:5], pictures[1, 4:8] = True, True
    embeds = torch.randn(2, 11, HIDDEN * (1 + levels))
    embeds[..., HIDDEN:] *= pictures[..., None]
    positions = (mask.cumsum(-1) - 1).clamp(min=0).repeat(3, 1, 1)
    positions[1:, pictures] += torch.randint(0, 5, (2, 8))
    main, *rest = embeds.split(HIDDEN, dim=-1)
    deepstack = dict(visual_pos_masks=pictures, deepstack_visual_embeds=[level[pictures] for level in rest])
    theirs = model.model.language_model(
        inputs_embeds=main, attention_mask=mask, position_ids=positions, **(deepstack if levels else {})
    )
    logits = model.lm_head(theirs.last_hidden_state)
    decoder = session(family, "decoder_model_merged")
    outputs = [output.name for output in decoder.get_outputs()]
    names = [f"past_key_values.{layer}.{which}" for layer in range(LAYERS) for which in ("key", "value")]
    # GroupQueryAttention takes several rows through the whole prompt or through one token, and refuses what is between.
    for rows in [slice(0, 2)] if set(splits[1:]) <= {1} else [slice(0, 1), slice(1, 2)]:
        past = {name: np.zeros((len(embeds[rows]), KV_HEADS, 0, HEAD), np.float32) for name in names}
        done, steps = 0, []
        for count in splits:
            end = done + count
            feed = {
                "inputs_embeds": embeds[rows, done:end].numpy(),
                "attention_mask": mask[rows, :end].numpy(),
                "position_ids": np.ascontiguousarray(positions[:, rows, done:end].numpy()),
            }
            found = dict(zip(outputs, decoder.run(None, {**feed, **past})))
            past = {name: found[name.replace("past_key_values", "present")] for name in past}
            steps.append(found["logits"])
            done = end
        seen = mask[rows].bool().numpy()  # what stands on padding is nobody's
        error = np.abs(np.concatenate(steps, axis=1) - logits[rows].numpy())[seen].max()
        assert error <= 1e-5 * logits.abs().max().item()


@torch.no_grad()
@pytest.mark.parametrize("family", wide.cells(FAMILIES, ["qwen3_vl"]))
def test_embedding(family: str) -> None:
    ids = torch.randint(0, 300, (3, 11))
    found = session(family, "embed_tokens").run(None, {"input_ids": ids.numpy()})[0]
    expected = student(family).model.get_input_embeddings()(ids).numpy()
    assert np.array_equal(found[..., :HIDDEN], expected)
    assert found.shape[-1] == HIDDEN * (3 if family == "qwen3_vl" else 1) and not found[..., HIDDEN:].any()


@pytest.mark.parametrize("family", wide.cells(FAMILIES, ["qwen3_vl"]))
def test_weights_keep_the_students_names(family: str) -> None:
    names = dict(student(family).model.named_parameters(remove_duplicate=False))
    found = {}
    for part in qwen_vl.parts(student(family)):
        found |= {part.student_name(name): value for name, value in part.module.named_parameters()}
    assert found.keys() <= names.keys() and all(value is names[name] for name, value in found.items())
    assert {"model.visual.patch_embed.proj.weight", "lm_head.weight"} <= names.keys()


@torch.no_grad()
@pytest.mark.parametrize("family", wide.cells(FAMILIES, ["qwen3_vl"]))
def test_a_shortened_tower_still_fits_its_reference(family: str) -> None:
    with bisect.shortened(student(family), qwen_vl.LAYERS["vision_encoder"], 1):
        reference = qwen_vl.Reference(student(family), tiny.picture(40, 40), "what?", 2)
        vision, embed, decoder = qwen_vl.parts(student(family))
        found = vision.module(*(torch.from_numpy(array) for array in reference.vision_inputs.values()))
    assert_close(found.numpy(), torch.from_numpy(reference.features))
    width = HIDDEN * (2 if family == "qwen3_vl" else 1)
    assert embed.dimensions["inputs_embeds"][-1] == decoder.dimensions["inputs_embeds"][-1] == width
    assert found.shape[-1] == reference.embeds.shape[-1] == width
