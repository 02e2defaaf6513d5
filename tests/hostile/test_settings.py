"""Every setting that a family reads, with values that none has: one sentence or an answer, and neither time nor memory.

No graphs are needed: what a picture becomes is settled before them.
"""

import copy
import json
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from masters_edge.common.errors import UserError
from masters_edge.runtime import settings
from masters_edge.runtime.families import open_family
from tests import pictures

NUMBERS = {
    "do_convert_rgb": True, "do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3,
    "rescale_factor": 1 / 255, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip
TOKENS = {"bos_token": "<s>", "model_specific_special_tokens": {"image_token": "<image>"}}
FRAMES = {
    "preprocessor_config.json": NUMBERS
    | {"do_image_splitting": True, "max_image_size": {"longest_edge": 32}, "size": {"longest_edge": 64}},
    "config.json": {"image_token_id": 7},
    "processor_config.json": {"image_seq_len": 4},
    "tokenizer_config.json": TOKENS,
}
TILES = {
    "preprocessor_config.json": NUMBERS | {"size": {"height": 28, "width": 28}, "min_patches": 1, "max_patches": 6},
    "config.json": {"image_token_id": 7},
    "processor_config.json": {"image_seq_length": 4},
    "tokenizer_config.json": {"context_image_token": "<IMG_CONTEXT>", "start_image_token": "<img>"},
}
PATCHES = {
    "preprocessor_config.json": NUMBERS
    | {
        "patch_size": 8,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": 256, "longest_edge": 8192},
    },
    "config.json": {"image_token_id": 7},
    "tokenizer_config.json": TOKENS,
}
PINPOINTS = [[32, 32], [32, 64], [64, 32], [64, 64]]
ANYRES = {
    "preprocessor_config.json": NUMBERS | {"size": {"height": 32, "width": 32}, "image_grid_pinpoints": PINPOINTS},
    "config.json": {
        "image_token_index": 7,
        "image_grid_pinpoints": PINPOINTS,
        "vision_aspect_ratio": "anyres_max_9",
        "vision_config": {"image_size": 32, "patch_size": 8},
    },
    "tokenizer_config.json": TOKENS,
}
FAMILIES = {"smolvlm": FRAMES, "internvl": TILES, "qwen2_5_vl": PATCHES, "llava_onevision": ANYRES}
MISSING = object()
PICTURE = pictures.noise((60, 44))
VALUES: list[Any] = [
    MISSING, None, True, -1, 0, 1, 10**9, 10**400, 1e308, float("nan"), "\ud800", "x" * 2000, [], [[10**6, 10**6]], {},
]  # fmt: skip


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in nested settings something stands, settings that hold others included."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*path, key))


def changed(files: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    files = copy.deepcopy(files)
    inner: Any = files
    for key in path[:-1]:
        inner = inner[key]
    if value is MISSING:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return files


def looked(family: str, files: dict[str, Any], folder: Path) -> None:
    """Write the settings and look at a picture; raises UserError, or nothing."""
    for name in FAMILIES[family]:
        (folder / name).unlink(missing_ok=True)
        if name in files:
            (folder / name).write_text(json.dumps(files[name]))
    opened = open_family(family, folder)
    opened.image_text(opened.look(PICTURE))


@pytest.mark.parametrize("family", FAMILIES)
def test_ordinary_settings_are_read(family: str, tmp_path: Path) -> None:
    looked(family, FAMILIES[family], tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_value_is_one_sentence_or_an_answer(family: str, tmp_path: Path) -> None:
    files = FAMILIES[family]
    refused = 0
    for path in leaves(files):
        for value in VALUES:
            began = time.process_time()
            try:
                looked(family, changed(files, path, value), tmp_path)
            except UserError as error:
                refused += 1
                assert str(error).isprintable() and len(str(error)) < 1000, (path, value)
            except Exception as error:
                pytest.fail(f"{path} = {str(value)[:40]!r}: {error!r}")
            assert time.process_time() - began < 5, (path, value)
    assert refused > 100


BOUNDS = {
    "a million frames": ("smolvlm", ("preprocessor_config.json", "max_image_size", "longest_edge"), 1, "tiles"),
    "tokens": ("smolvlm", ("processor_config.json", "image_seq_len"), 65_536, "tokens of the picture"),
    "a side of a mile": ("smolvlm", ("preprocessor_config.json", "size", "longest_edge"), 10**6, "16384"),
    "tiles": ("internvl", ("preprocessor_config.json", "max_patches"), 10**6, "max_patches"),
    "a tile of a mile": ("internvl", ("preprocessor_config.json", "size", "height"), 10**6, "size.height"),
    "pixels": ("qwen2_5_vl", ("preprocessor_config.json", "size", "shortest_edge"), 10**9, "shortest_edge"),
    "a patch of nothing": ("qwen2_5_vl", ("preprocessor_config.json", "patch_size"), 0, "patch_size"),
    "no merge": ("qwen2_5_vl", ("preprocessor_config.json", "merge_size"), 0, "merge_size"),
    "a deviation of nothing": ("qwen2_5_vl", ("preprocessor_config.json", "image_std"), [0, 0, 0], "image_std"),
    "no pinpoints": ("llava_onevision", ("config.json", "image_grid_pinpoints"), [], "image_grid_pinpoints"),
    "patches": ("llava_onevision", ("config.json", "vision_config", "patch_size"), 64, "patch_size"),
    "a ratio": ("llava_onevision", ("config.json", "vision_aspect_ratio"), "anyres_max_0", "vision_aspect_ratio"),
    "no mark": ("qwen2_5_vl", ("tokenizer_config.json", "model_specific_special_tokens", "image_token"), "", "no text"),
}


@pytest.mark.parametrize("case", BOUNDS)
def test_what_is_out_of_bounds_is_named(case: str, tmp_path: Path) -> None:
    family, path, value, words = BOUNDS[case]
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=words):
            looked(family, changed(FAMILIES[family], path, value), tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 300e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "can't be read"),
        (b"[]", "no JSON object"),
        (b"\xff\xfe", "can't be read"),
        (b"[" * 100_000, "can't be read"),
        (b'{"a": ' * 50_000, "can't be read"),
        (b'{"image_token_id": ' + b"9" * 5000 + b"}", "can't be read"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=words):
        settings.read(tmp_path, "config.json", settings.Config)


def test_a_file_of_many_bytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(settings.MOST_BYTES + 1)
    with pytest.raises(UserError, match="far more than it needs"):
        settings.read(tmp_path, "config.json", settings.Config)
