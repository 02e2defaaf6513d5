"""The page's engine in real Chromium, with real transformers.js: the same answers as the Python runtime's.

Tiny random students answer otherwise for the slightest difference in what they are shown.
"""

import io
import json
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from masters_edge.bundle import manifest as manifests
from masters_edge.common.pictures import to_rgb, upright
from masters_edge.runtime import Student
from tests import tiny
from tests.export import bundles
from tests.page.driver import Browser, chromium, logged_urls, needs_browser
from tests.page.engine import Engine, Refused, Server, complaints, needs_assets, png, serving

pytestmark = [needs_browser, needs_assets]

QUESTION = "what is in this image?"
SIZES = ((32, 32), (70, 51), (20, 90), (200, 91))
TOKENS = 16
SWIFTSHADER = (
    "--enable-unsafe-webgpu",
    "--enable-features=Vulkan",
    "--use-webgpu-adapter=swiftshader",
    "--use-vulkan=swiftshader",
)


@dataclass(frozen=True)
class Case:
    """A tiny student. Equal answers are expected of each, on pictures of every size."""

    family: str
    splitting: bool = False

    def __str__(self) -> str:
        return f"{self.family}-split" if self.splitting else self.family


FAST = [Case("smolvlm", True)]  # each case exports a student of its own
CASES = [
    *FAST,
    *(Case("smolvlm"), Case("idefics3"), Case("idefics3", True)),
    *(Case("qwen2_5_vl"), Case("qwen3_vl"), Case("internvl3"), Case("internvl3_5")),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


@pytest.fixture(scope="module")
def browser(server: Server) -> Iterator[Browser]:
    with chromium() as started:
        started.driver.get(server.url)
        yield started


def hash_of(data: bytes) -> str:
    return f"{zlib.crc32(data):08x}"


def compare(engine: Engine, student: Student, sizes: tuple[tuple[int, int], ...] = SIZES) -> None:
    """Pixels, inputs, prompt, tokens and text."""
    for seed, size in enumerate(sizes):
        picture = tiny.picture(*size, seed=seed)
        ours, theirs = (
            engine.answer(picture, QUESTION, exactly=TOKENS),
            student.answer(picture, QUESTION, exactly=TOKENS),
        )
        seen = student.ask(picture, QUESTION).seen
        assert ours["pixels_hash"] == hash_of(picture.convert("RGB").tobytes()), size
        assert ours["inputs_hash"] == hash_of(seen.inputs["pixel_values"].tobytes()), size
        assert ours["prompt_tokens"] == theirs.prompt_tokens, size
        assert ours["token_ids"] == theirs.token_ids, size
        assert ours["text"] == theirs.text, size


@pytest.mark.parametrize("case", [pytest.param(c, marks=[] if c in FAST else pytest.mark.slow) for c in CASES], ids=str)
def test_answers_as_the_python_runtime_does(case: Case, browser: Browser, server: Server) -> None:
    bundle = bundles.exported(case.family, "fp32", case.splitting)
    engine = Engine(browser, server, bundle)
    compare(engine, Student.load(bundle, backend="onnxruntime", threads=1))
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int4", "int8"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_quantized_answers_are_those_of_exact_arithmetic(
    scheme: str, case: Case, browser: Browser, server: Server, tmp_path: Path
) -> None:
    """WASM has no integer kernels for MatMulNBits: as shipped it multiplies in float32, as the parity gate does."""
    bundle = bundles.exported(case.family, scheme, case.splitting)
    engine = Engine(browser, server, bundle)
    compare(engine, Student.load(bundles.exact(bundle, tmp_path / "exact"), backend="onnxruntime", threads=1))
    engine.close()


@pytest.mark.slow
def test_portable_weights_answer_as_exact_arithmetic_does(browser: Browser, server: Server) -> None:
    """There WASM unpacks them once, when the graphs are loaded."""
    bundle = bundles.exported("smolvlm", "int4", True, "onnx_portable")
    graphs = manifests.read(bundle).graphs
    engine = Engine(browser, server, bundle)
    compare(engine, Student(bundle, graphs, "onnx_portable", "onnxruntime", threads=1, exact=True))
    engine.close()


@pytest.mark.slow
def test_webgpu_answers_so_too(server: Server) -> None:
    """On SwiftShader, a graphics processor in software: its attention rounds otherwise, so one picture may differ."""
    with chromium(*SWIFTSHADER) as browser:
        browser.driver.get(server.url)
        for case in (Case("smolvlm", True), Case("qwen2_5_vl"), Case("qwen3_vl"), Case("internvl3")):
            bundle = bundles.exported(case.family, "fp32", case.splitting)
            try:
                engine = Engine(browser, server, bundle, "webgpu")
            except Refused as refusal:
                pytest.skip(str(refusal))
            student = Student.load(bundle, backend="onnxruntime", threads=1)
            asked = [tiny.picture(*size, seed=seed) for seed, size in enumerate(SIZES)]
            ours = [engine.answer(picture, QUESTION, exactly=TOKENS)["token_ids"] for picture in asked]
            theirs = [student.answer(picture, QUESTION, exactly=TOKENS).token_ids for picture in asked]
            assert [ids[0] for ids in ours] == [ids[0] for ids in theirs], case
            assert sum(a == b for a, b in zip(ours, theirs)) >= len(SIZES) - 1, case
            engine.close()


@pytest.mark.wide
def test_an_answer_ends_and_is_timed_as_in_python(browser: Browser, server: Server) -> None:
    bundle = bundles.exported("smolvlm", "fp32", True)
    student = Student.load(bundle, backend="onnxruntime", threads=1)
    engine = Engine(browser, server, bundle, threads=2)
    assert engine.facts["threads"] == 2 and engine.facts["context"] == student.context
    assert engine.facts["image_token_id"] == student.family.image_token_id
    assert engine.facts["versions"]["@huggingface/transformers"].startswith("4.")
    picture = tiny.picture(64, 48, seed=4)
    for question in (QUESTION, '<img src=x> & "quotes" \n ünïcode 😀', ""):
        ours, theirs = engine.answer(picture, question), student.answer(picture, question)
        assert (ours["token_ids"], ours["text"]) == (theirs.token_ids, theirs.text)
    assert 0 < ours["vision_ms"] < ours["ttft_ms"] <= ours["total_ms"]
    parts = ours["preprocess_ms"] + ours["vision_ms"] + ours["prefill_ms"]
    assert ours["prefill_ms"] > 0 and abs(parts - ours["ttft_ms"]) < 1e-6
    one = engine.answer(picture, QUESTION, exactly=1)
    assert len(one["token_ids"]) == 1 and one["decode_tokens_per_s"] is None and one["ttft_ms"] == one["total_ms"]
    ids = student.ask(picture, QUESTION).input_ids
    size = {"prompt_tokens": len(ids), "image_tokens": ids.count(student.family.image_token_id)}
    assert engine.call("promptSize", picture=picture, question=QUESTION) == size

    placeholder = student.family.placeholder
    for question, sentence in (
        (f"what is {placeholder}?", f"the question contains {placeholder}, which stands for the image; leave it out"),
        ("what is it? " * 500, "the student reads 512; ask a shorter question"),
    ):
        with pytest.raises(Refused, match="^the ") as error:
            engine.answer(picture, question)
        assert sentence in str(error.value)
    with pytest.raises(Refused, match="^the picture can't be read by this browser; give a whole PNG or JPEG$"):
        engine.answer(b"no picture", QUESTION)
    with pytest.raises(Refused, match="^exactly 9999 tokens are asked for; the student has room for 1 to "):
        engine.answer(picture, QUESTION, exactly=9999)
    assert engine.answer(picture, QUESTION, exactly=1)["token_ids"] == one["token_ids"]  # and goes on
    engine.close()
    assert not complaints(browser)  # of the policy, or of a script


@pytest.mark.wide
def test_what_a_checkpoint_wants_of_generation_is_as_in_python(
    browser: Browser, server: Server, tmp_path: Path
) -> None:
    """Both are greedy, whatever else it asks for; how long an answer may be, and where it ends, is as it says."""
    bundle = tmp_path / "bundle"
    shutil.copytree(bundles.exported("smolvlm", "fp32", True), bundle)
    picture = tiny.picture(64, 48, seed=2)
    plain = Student.load(bundle, backend="onnxruntime", threads=1).answer(picture, QUESTION, exactly=12).token_ids
    generation = json.loads((bundle / "generation_config.json").read_text())
    wanted = {"repetition_penalty": 1.8, "no_repeat_ngram_size": 1, "min_new_tokens": 30, "do_sample": True}
    for ends in ({"max_new_tokens": 12, "eos_token_id": None}, {"max_new_tokens": 12, "eos_token_id": [plain[3], 1]}):
        (bundle / "generation_config.json").write_text(json.dumps(generation | wanted | ends))
        manifests.write(bundle, manifests.read(bundle))
        engine = Engine(browser, server, bundle)
        theirs = Student.load(bundle, backend="onnxruntime", threads=1).answer(picture, QUESTION).token_ids
        assert theirs == (plain[: plain.index(plain[3]) + 1] if ends["eos_token_id"] else plain)
        assert engine.answer(picture, QUESTION)["token_ids"] == theirs
        engine.close()


@pytest.mark.wide
def test_pictures_are_decoded_as_pillow_does(browser: Browser, server: Server) -> None:
    engine = Engine(browser, server, bundles.exported("smolvlm", "fp32", True))
    photo = Image.fromarray(np.random.default_rng(3).integers(0, 256, (50, 70, 3), dtype=np.uint8)).resize((140, 101))

    def equal(data: bytes, kind: str = "image/png") -> bool:
        with Image.open(io.BytesIO(data)) as image:
            expected = to_rgb(upright(image))
        found = engine.call("answer", picture=data, type=kind, question=QUESTION, exactly=1, hashes=True)
        return bool(found["pixels_hash"] == hash_of(expected.tobytes()))

    def saved(image: Image.Image, form: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        return buffer.getvalue()

    for mode in ("RGB", "L", "P", "1"):
        assert equal(png(photo.convert(mode))), mode
    clear = photo.convert("RGBA")
    clear.putalpha(photo.convert("L").point(lambda value: 255 * (value > 127)))  # seen through, or not
    assert equal(png(clear))
    for subsampling in (0, 2):
        assert equal(saved(photo, "JPEG", quality=90, subsampling=subsampling), "image/jpeg"), subsampling
    turned = Image.Exif()
    turned[0x0112] = 6  # as a phone held upright stores it
    assert equal(saved(photo, "JPEG", quality=95, exif=turned), "image/jpeg")
    assert equal(saved(photo.convert("L"), "JPEG"), "image/jpeg")
    assert equal(saved(photo, "WEBP", lossless=True), "image/webp")
    for orientation in range(1, 9):  # which browsers leave as it lies
        turned[0x0112] = orientation
        for exif in (turned.tobytes(), turned.tobytes().removeprefix(b"Exif\0\0")):
            assert equal(saved(photo, "WEBP", lossless=True, exif=exif), "image/webp"), orientation
        assert equal(saved(photo, "PNG", exif=turned)), orientation
    deep = np.random.default_rng(4).integers(0, 1 << 16, (30, 40), dtype=np.uint16)
    assert equal(png(Image.fromarray(deep)))
    engine.close()


@pytest.mark.wide
def test_asks_nobody_else(tmp_path: Path) -> None:
    """Without isolation too, where one thread is all there is."""
    bundle = bundles.exported("qwen2_5_vl", "fp32")
    log = tmp_path / "net.json"
    with serving(isolated=False) as server, chromium(net_log=log) as browser:
        browser.driver.get(server.url)
        engine = Engine(browser, server, bundle, threads=2)
        assert engine.facts["threads"] == 1
        compare(engine, Student.load(bundle, backend="onnxruntime", threads=1), SIZES[:1])
        with pytest.raises(Refused, match="this browser has no WebGPU, or no graphics processor for it; use wasm"):
            Engine(browser, server, bundle, "webgpu")
    urls = logged_urls(log)
    assert {urlsplit(url).netloc for url in urls} == {urlsplit(server.url).netloc}
    paths = {urlsplit(url).path for url in urls}
    assert "/assets/x/transformers.min.js" in paths and "/assets/x/ort-wasm-simd-threaded.wasm" in paths


def test_an_unknown_family_is_refused(browser: Browser, server: Server, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(bundles.exported("smolvlm", "fp32", True), bundle)
    config = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps(config | {"masters_edge_model_type": "llava_onevision"}))
    manifests.write(bundle, manifests.read(bundle))
    with pytest.raises(Refused, match="^the browser's runtime does not know llava_onevision; it knows smolvlm, "):
        Engine(browser, server, bundle)
