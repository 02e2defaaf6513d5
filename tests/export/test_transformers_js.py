"""transformers.js answers from an unmodified bundle as PyTorch does, token by token, in Node.

The package comes from npm, pinned by `tests/transformers_js/package-lock.json`, into the user's cache folder (0.5 GB).
Its resize isn't antialiased, and tiny random students answer otherwise for the slightest difference. So pictures have a
size that needs no resize; where one can't be avoided (SmolVLM's small copy of a split picture) the pixels are given.
"""

import base64
import functools
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from masters_edge.common.errors import UserError
from masters_edge.export import graphs
from masters_edge.export.genai import transformers_js
from masters_edge.export.settings import write_settings
from masters_edge.export.student import load
from masters_edge.runtime import Student
from masters_edge.runtime.families import OWN_MODEL_TYPE
from tests import tiny, wide
from tests.export import bundles

HARNESS = Path(__file__).parents[1] / "transformers_js"
QUESTION = "what is in this image?"
TOKENS = 24
OFFLINE = ("ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "EAI_AGAIN", "ENETUNREACH")


@dataclass(frozen=True)
class Case:
    """A tiny student and sizes of pictures. `given`: their pixels come from PyTorch's processor."""

    family: str
    sizes: tuple[tuple[int, int], ...]
    splitting: bool = False
    given: bool = False

    def __str__(self) -> str:
        return f"{self.family}-split" if self.splitting else self.family


SPLIT = ((64, 64), (64, 32), (32, 64), (70, 51))
CASES = [
    Case("smolvlm", ((32, 32),)),
    Case("idefics3", ((32, 32),)),
    Case("smolvlm", SPLIT, splitting=True, given=True),
    Case("idefics3", SPLIT, splitting=True, given=True),
    Case("qwen2_5_vl", ((32, 32), (64, 48), (32, 80))),
    Case("qwen3_vl", ((32, 32), (64, 48), (32, 80))),
    Case("internvl3", ((32, 32),)),
    Case("internvl3_5", ((32, 32),)),
]


@functools.lru_cache
def harness() -> Path:
    """A folder with `answer.mjs` and the package it needs; skips where that can't be had."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"transformers.js needs {program}, which isn't installed")
    files = [HARNESS / name for name in ("package.json", "package-lock.json", "answer.mjs")]
    version = hashlib.sha256(b"".join(file.read_bytes() for file in files[:2])).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "masters-edge" / f"transformers-js-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, folder)
    if not (folder / "node_modules" / ".package-lock.json").exists():  # npm writes it last
        environment = os.environ | {"ONNXRUNTIME_NODE_INSTALL": "skip"}  # no CUDA libraries from elsewhere
        command = ["npm", "ci", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode and any(word in done.stderr for word in OFFLINE):
            pytest.skip("transformers.js isn't in the cache, and npm can't reach its registry")
        assert done.returncode == 0, done.stderr
    return folder


def in_node(bundle: Path, requests: list[dict]) -> list[dict]:
    """What `answer.mjs` answers to `requests`, with its own pixels as float32."""
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    command = ["node", "answer.mjs", str(bundle)]
    done = subprocess.run(command, cwd=harness(), input=lines, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for answer in answers:
        answer["pixels"] = np.frombuffer(base64.b64decode(answer["pixels"]), np.float32).reshape(answer["dims"])
    return answers


def asked(case: Case, references: list, folder: Path) -> list[dict]:
    """The requests for a case's pictures, saved into `folder`."""
    requests = []
    for index, (size, reference) in enumerate(zip(case.sizes, references)):
        picture, pixels = folder / f"{index}.png", folder / f"{index}.f32"
        tiny.picture(*size, seed=index).save(picture)
        reference.vision_inputs["pixel_values"].tofile(pixels)
        given = {"pixels": str(pixels)} if case.given else {}
        requests.append({"image": str(picture), "question": QUESTION, "max_new_tokens": TOKENS} | given)
    return requests


def references(case: Case, scheme: str) -> list:
    """PyTorch's answers, with the weights that `scheme` leaves."""
    from masters_edge.export.quantize import quantize
    from masters_edge.quantization import by_part

    student = load(bundles.student(case.family, case.splitting))
    quantize(student, by_part.plan(scheme), "rtn", bundles.samples())
    make = graphs.family(student.model_type).Reference
    return [make(student, tiny.picture(*size, seed=i), QUESTION, TOKENS) for i, size in enumerate(case.sizes)]


@pytest.mark.parametrize("case", wide.cells(CASES, CASES[2:3]), ids=str)
def test_answers_equal_pytorch(case: Case, tmp_path: Path) -> None:
    harness()
    expected = references(case, "fp32")
    bundle = bundles.exported(case.family, "fp32", case.splitting)
    for answer, reference in zip(in_node(bundle, asked(case, expected, tmp_path)), expected, strict=True):
        pixels = reference.vision_inputs["pixel_values"]
        assert answer["input_ids"] == reference.input_ids[0].tolist()
        assert answer["pixels"].shape == pixels.shape
        if not case.given:
            assert np.abs(answer["pixels"] - pixels).max() <= 1e-6
        assert answer["token_ids"] == reference.answer


@pytest.mark.slow
def test_split_pictures_differ_in_the_small_copy_alone(tmp_path: Path) -> None:
    """64 x 64 is cut without a resize; only the last frame, the whole picture made small, needs one."""
    harness()
    case = Case("smolvlm", ((64, 64),), splitting=True)
    (reference,) = references(case, "fp32")
    (answer,) = in_node(bundles.exported("smolvlm", "fp32", True), asked(case, [reference], tmp_path))
    off = np.abs(answer["pixels"] - reference.vision_inputs["pixel_values"]).max(axis=(0, 2, 3, 4))
    assert (off[:-1] <= 1e-6).all() and off[-1] > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_int4_answers_equal_ours_and_pytorch(case: Case, tmp_path: Path) -> None:
    """As shipped, its answers are our runtime's; at exact arithmetic, as in the parity gate, they are PyTorch's."""
    harness()
    expected = references(case, "int4")
    bundle = bundles.exported(case.family, "int4", case.splitting)
    assert json.loads((bundle / "config.json").read_text())["transformers.js_config"]["dtype"] == "q4"
    requests = asked(case, expected, tmp_path)
    ours = Student.load(bundle, backend="onnxruntime")
    pictures = [tiny.picture(*size, seed=index) for index, size in enumerate(case.sizes)]
    shipped = [ours.answer(picture, QUESTION, max_new_tokens=TOKENS).token_ids for picture in pictures]
    assert [answer["token_ids"] for answer in in_node(bundle, requests)] == shipped
    exact = in_node(bundles.exact(bundle, tmp_path / "exact"), requests)
    assert [answer["token_ids"] for answer in exact] == [reference.answer for reference in expected]


def test_internvl_calls_itself_llava(tmp_path: Path) -> None:
    student = load(bundles.student("internvl3"))
    write_settings(student, tmp_path)
    transformers_js.write(student, tmp_path, "q4", ["decoder_model_merged"])

    def read(name: str) -> dict:
        return json.loads((tmp_path / name).read_text(encoding="utf-8"))

    config, counting = read("config.json"), read("processor_config.json")
    assert (config["model_type"], config[OWN_MODEL_TYPE]) == ("llava", "internvl")
    assert config["image_token_index"] == config["image_token_id"] == student.model.config.image_token_id
    assert config["transformers.js_config"] == {"dtype": "q4", "use_external_data_format": {"decoder_model_merged": 1}}
    assert read("generation_config.json")["suppress_tokens"] == [config["image_token_id"]]
    assert read("preprocessor_config.json")["processor_class"] == counting["processor_class"] == "LlavaProcessor"
    assert (tiny.SIDE // counting["patch_size"]) ** 2 == counting["image_seq_length"] == tiny.IMAGE_SEQ_LEN
    assert "<img><IMG_CONTEXT></img>" in read("tokenizer_config.json")["chat_template"]
    assert (tmp_path / "chat_template.jinja").read_text(encoding="utf-8") == student.processor.chat_template


def test_other_families_keep_their_names(tmp_path: Path) -> None:
    student = load(bundles.student("smolvlm"))
    write_settings(student, tmp_path)
    before = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.json")}
    transformers_js.write(student, tmp_path, "fp32", [])
    changed = {name for name, text in before.items() if (tmp_path / name).read_text(encoding="utf-8") != text}
    assert changed == {"config.json", "generation_config.json"}
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["model_type"] == "smolvlm"


def test_a_template_without_the_placeholder_is_refused(tmp_path: Path) -> None:
    student = load(bundles.student("internvl3"))
    student.processor.chat_template = "{{ messages[0]['content'] }}"
    write_settings(student, tmp_path)
    with pytest.raises(UserError, match="doesn't write <IMG_CONTEXT> where a picture stands"):
        transformers_js.write(student, tmp_path, "fp32", [])
