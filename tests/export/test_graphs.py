"""The exported graphs compute what the model computes, for batches, padding frames, masks and any past."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from masters_edge.export.student import load
from tests import tiny
from tests.export import bundles

SIDE = tiny.SIDE


@pytest.fixture(scope="module")
def model():
    return load(bundles.student("smolvlm", True)).model


def session(part: str) -> ort.InferenceSession:
    path: Path = bundles.exported("smolvlm", "fp32", True) / "onnx" / f"{part}.onnx"
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def assert_close(ours: np.ndarray, theirs: torch.Tensor) -> None:
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def vision(pixels: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    return session("vision_encoder").run(None, {"pixel_values": pixels.numpy(), "pixel_attention_mask": mask.numpy()})[
        0
    ]


def features(model, pixels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    found = model.get_image_features(pixel_values=pixels, pixel_attention_mask=mask, return_dict=True)
    return torch.cat(found.pooler_output).reshape(-1, tiny.IMAGE_SEQ_LEN, 64)


@torch.no_grad()
@pytest.mark.parametrize(("batch", "images"), [(1, 1), (1, 5), (3, 2)])
def test_vision(model, batch: int, images: int) -> None:
    torch.manual_seed(0)
    pixels = torch.randn(batch, images, 3, SIDE, SIDE)
    mask = torch.ones(batch, images, SIDE, SIDE, dtype=torch.bool)
    assert_close(vision(pixels, mask), features(model, pixels, mask))


@torch.no_grad()
def test_padding_frames_leave_no_features(model) -> None:
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 3, SIDE, SIDE)
    mask = torch.ones(2, 3, SIDE, SIDE, dtype=torch.bool)
    pixels[1, 1:], mask[1, 1:] = 0, False
    found = vision(pixels, mask)
    assert len(found) == 4
    assert_close(found, features(model, pixels, mask))


@torch.no_grad()
def test_no_frame_at_all_counts_as_one(model) -> None:
    pixels = torch.zeros(1, 2, 3, SIDE, SIDE)
    mask = torch.ones(1, 2, SIDE, SIDE, dtype=torch.bool)
    assert_close(vision(pixels, mask), features(model, pixels, mask))


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(SIDE, 16), (9, SIDE), (17, 25), (1, 1)])
def test_pixels_outside_the_mask_are_not_seen(model, height: int, width: int) -> None:
    torch.manual_seed(0)
    pixels = torch.randn(1, 2, 3, SIDE, SIDE)
    mask = torch.ones(1, 2, SIDE, SIDE, dtype=torch.bool)
    mask[0, 1, height:], mask[0, 1, :, width:] = False, False
    found = vision(pixels, mask)
    assert_close(found, features(model, pixels, mask))
    whole = vision(pixels, torch.ones_like(mask))
    assert np.abs(found[0] - whole[0]).max() < 1e-6
    assert np.abs(found[1] - whole[1]).max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("splits", [[9], [4, 5], [1, 1, 1, 6], [7, 1, 1]])
def test_decoder_over_any_past(model, splits: list[int]) -> None:
    torch.manual_seed(0)
    embeds = torch.randn(2, 9, 64)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, :3] = 0  # left padding
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    theirs = model.model.text_model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions)
    logits = model.lm_head(theirs.last_hidden_state)
    decoder = session("decoder_model_merged")
    outputs = [output.name for output in decoder.get_outputs()]
    # GroupQueryAttention takes several rows through the whole prompt or through one token, and refuses what is between.
    for rows in [slice(0, 2)] if set(splits[1:]) <= {1} else [slice(0, 1), slice(1, 2)]:
        count = len(embeds[rows])
        past = {
            f"past_key_values.{i}.{k}": np.zeros((count, 2, 0, 16), np.float32)
            for i in range(2)
            for k in ("key", "value")
        }
        done, steps = 0, []
        for length in splits:
            end = done + length
            feed = {
                "inputs_embeds": embeds[rows, done:end].numpy(),
                "attention_mask": mask[rows, :end].numpy(),
                "position_ids": positions[rows, done:end].numpy(),
            }
            found = dict(zip(outputs, decoder.run(None, {**feed, **past})))
            past = {name: found[name.replace("past_key_values", "present")] for name in past}
            steps.append(found["logits"])
            done = end
        ours = np.concatenate(steps, axis=1)
        seen = mask[rows].bool().numpy()  # what stands on padding is nobody's
        assert np.abs(ours - logits[rows].numpy())[seen].max() <= 1e-5 * logits.abs().max().item()


@torch.no_grad()
def test_embedding(model) -> None:
    ids = torch.randint(0, 300, (3, 11))
    found = session("embed_tokens").run(None, {"input_ids": ids.numpy()})[0]
    assert np.array_equal(found, model.get_input_embeddings()(ids).numpy())
