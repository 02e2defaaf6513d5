"""The page's preprocessing, run in Node, against the Python runtime's: bit for bit, for every family it knows."""

import base64
import json
import random
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from masters_edge.common.errors import UserError
from masters_edge.common.pictures import to_rgb
from masters_edge.runtime.families import open_family

HERE = Path(__file__).parent
WEB = HERE.parents[1] / "benchmarks" / "page" / "web"
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
as_pillow_13 = pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="before Pillow 13, tall pictures were resized in another order"
)

NORMAL = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "rescale_factor": 0.00392156862745098}
EDGE = "longest_edge"
QWEN = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2, "resample": 3}
# model_type, preprocessor_config.json, processor_config.json
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "smolvlm": (
        "smolvlm",
        HALF | {"do_image_splitting": False, "size": {EDGE: 96}, "max_image_size": {EDGE: 64}, "resample": 1},
        {"image_seq_len": 3},
    ),
    "smolvlm-split": (
        "smolvlm",
        HALF | {"do_image_splitting": True, "size": {EDGE: 128}, "max_image_size": {EDGE: 48}, "resample": 1},
        {"image_seq_len": 3},
    ),
    "idefics3-split": (
        "idefics3",
        NORMAL | {"size": {EDGE: 91}, "max_image_size": {EDGE: 32}, "resample": 2},
        {"image_seq_len": 2},
    ),
    "qwen2_5_vl": (
        "qwen2_5_vl",
        NORMAL | QWEN | {"size": {"shortest_edge": 3136, EDGE: 20000}},
        {},
    ),
    "qwen3_vl": (
        "qwen3_vl",
        HALF | QWEN | {"patch_size": 16, "size": {"shortest_edge": 4096, EDGE: 32768}},
        {},
    ),
    "internvl": (
        "internvl",
        NORMAL | {"size": {"height": 32, "width": 32}, "min_patches": 1, "max_patches": 6, "resample": 3},
        {"image_seq_length": 4},
    ),
    "internvl-one-tile": (
        "internvl",
        NORMAL | {"size": {"height": 56, "width": 56}, "max_patches": 1},
        {"image_seq_length": 4},
    ),
}
SIZES = [(64, 64), (48, 32), (70, 51), (51, 70), (200, 90), (30, 97), (7, 5), (1, 1), (300, 299), (63, 189)]


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Noise, with hard edges in it: what shows any difference in a filter."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    noise[: height // 2, : width // 2] = (255, 0, 128)
    noise[height // 2 :: 2, ::3] = 255
    return Image.fromarray(noise)


def in_node(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    command = ["node", str(HERE / "preprocess.mjs"), str(WEB)]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def as_request(image: Image.Image, **rest: Any) -> dict[str, Any]:
    pixels = base64.b64encode(image.tobytes()).decode()
    return {"width": image.width, "height": image.height, "pixels": pixels, **rest}


def array(answer: dict[str, Any], name: str, dtype: Any) -> np.ndarray:
    return np.frombuffer(base64.b64decode(answer["data"][name]), dtype).reshape(answer["dims"][name])


@needs_node
@as_pillow_13
def test_resizes_as_pillow_does() -> None:
    draw = random.Random(5)
    cases = [
        ((9, 9), (9, 9), 1),
        ((9, 9), (9, 4), 3),
        ((1, 1), (5, 7), 1),
        ((400, 3), (2, 300), 1),
        ((3, 2), (90, 91), 3),
    ]
    for _ in range(150):
        have, want = [(draw.randint(1, 140), draw.randint(1, 140)) for _ in range(2)]
        cases.append((have, want, draw.randint(1, 5)))
    pictures = [picture(*have, seed=index) for index, (have, _, _) in enumerate(cases)]
    requests = [as_request(image, resize=[*want, filter]) for image, (_, want, filter) in zip(pictures, cases)]
    for image, (have, want, filter), answer in zip(pictures, cases, in_node(requests)):
        expected = np.asarray(image.resize(want, Image.Resampling(filter)))
        assert np.array_equal(array(answer, "rgb", np.uint8), expected), (have, want, filter)


@needs_node
@as_pillow_13
def test_a_photo_is_resized_as_pillow_does() -> None:
    """The sizes of a phone's photo, which small pictures don't stand for: long sums, wide filters."""
    image = picture(1600, 1203, seed=1)
    requests = [as_request(image, resize=[*to]) for to in ((512, 384, 1), (980, 728, 3), (2048, 1540, 1))]
    for request, answer in zip(requests, in_node(requests)):
        width, height, filter = request["resize"]
        expected = np.asarray(image.resize((width, height), Image.Resampling(filter)))
        assert np.array_equal(array(answer, "rgb", np.uint8), expected), request["resize"]


@needs_node
@as_pillow_13
@pytest.mark.parametrize("name", FAMILIES)
def test_sees_what_the_python_runtime_sees(name: str, tmp_path: Path) -> None:
    model_type, preprocessor, processor = FAMILIES[name]
    tokenizer = {"image_token": "<picture>", "model_specific_special_tokens": {"context_image_token": "<ctx>"}}
    settings = {
        "config": {"model_type": "llava", "masters_edge_model_type": model_type, "image_token_id": 7},
        "preprocessor": preprocessor,
        "processor": processor,
        "tokenizer": tokenizer,
    }
    for key, file in (("config", "config"), ("preprocessor", "preprocessor_config"), ("processor", "processor_config")):
        (tmp_path / f"{file}.json").write_text(json.dumps(settings[key]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    family = open_family(model_type, tmp_path)
    pictures = [picture(*size, seed=index) for index, size in enumerate(SIZES)]
    for image, answer in zip(pictures, in_node([as_request(image, settings=settings) for image in pictures])):
        seen = family.look(image)
        assert answer["dims"].keys() == seen.inputs.keys()
        for key, expected in seen.inputs.items():
            found = array(answer, key, expected.dtype)
            assert found.shape == expected.shape, (image.size, key)
            assert np.array_equal(found, expected), (image.size, key)
        assert answer["placeholder"] == family.placeholder
        assert answer["text"] == family.image_text(seen)
        assert answer["hash"] == f"{zlib.crc32(seen.inputs['pixel_values'].tobytes()):08x}"


@needs_node
def test_lays_on_white_as_pillow_does() -> None:
    """Every byte at every transparency."""
    grid = np.zeros((256, 256, 4), np.uint8)
    grid[..., 0], grid[..., 1] = np.arange(256), 255 - np.arange(256)
    grid[..., 3] = np.arange(256)[:, None]
    image = Image.fromarray(grid)  # RGBA
    [answer] = in_node([as_request(image, rgba=True)])
    found = np.frombuffer(base64.b64decode(answer["data"]["rgb"]), np.uint8).reshape(256, 256, 3)
    assert np.array_equal(found, np.asarray(to_rgb(image)))


@needs_node
def test_refuses_in_one_sentence(tmp_path: Path) -> None:
    unknown = {"config": {"model_type": "llava_onevision"}, "preprocessor": {}, "processor": {}, "tokenizer": {}}
    long = unknown | {
        "config": {"model_type": "qwen3_vl", "image_token_id": 1},
        "preprocessor": FAMILIES["qwen3_vl"][1],
    }
    strip = picture(402, 2, seed=0)
    first, second = in_node([as_request(strip, settings=settings) for settings in (unknown, long)])
    assert first["error"] == (
        "the browser's runtime does not know llava_onevision; it knows smolvlm, idefics3, qwen2_5_vl, qwen3_vl, "
        "internvl; measure it with --device local"
    )
    for name, content in {"config": long["config"], "preprocessor_config": long["preprocessor"]}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError) as error:
        open_family("qwen3_vl", tmp_path).look(strip)
    assert second["error"] == str(error.value)
