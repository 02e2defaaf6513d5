"""What is advised about bundles that are asked, and about questions and pictures put to them."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masters_edge.bundle import manifest as manifests
from masters_edge.runtime import Student, backends, fastest, images
from masters_edge.runtime.backends import _static, openvino
from masters_edge.runtime.families import open_family, qwen_vl
from tests import tiny
from tests.advice import ROOT, follows, said
from tests.export import bundles

DECODER = "onnx/decoder_model_merged.onnx"


@pytest.fixture(scope="module")
def bundle() -> Path:
    return bundles.exported("smolvlm", "fp32", splitting=True)


@pytest.fixture(scope="module")
def student(bundle: Path) -> Student:
    return Student.load(bundle, backend="onnxruntime", threads=1)


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


@follows(
    "runtime/prompt.py: {} can't be read ({}); {}",
    "{} can't be used ({}); export it again",
    "ONNX Runtime can't load {} ({}); copy or export the bundle again",
    "the bundle's processor settings don't fit its graphs: export it again",
)
def test_copied_or_exported_again(bundle: Path, copy: Path) -> None:
    """The bundle is fresh from the export; `test_bundle.py` has how an export takes a broken one's place."""
    for name, words in (
        ("config.json", "copy or export the bundle again"),
        ("tokenizer.json", "copy or export the bundle again"),
        ("chat_template.jinja", "export it again"),
        (DECODER, "ONNX Runtime can't load"),
    ):
        (copy / name).write_bytes(b"{%")
        with said(words):
            Student.load(copy, backend="onnxruntime", threads=1, check=False)
        shutil.copy(bundle / name, copy / name)
        assert Student.load(copy, backend="onnxruntime", threads=1).context == 512
    path = copy / "processor_config.json"
    own = path.read_text()
    path.write_text(json.dumps({**json.loads(own), "image_seq_len": 5}))
    with said("export it again"):
        Student.load(copy, backend="onnxruntime", threads=1, check=False).answer(tiny.picture(), "what?")
    path.write_text(own)
    assert Student.load(copy, backend="onnxruntime", threads=1).answer(tiny.picture(), "what?").token_ids


@follows("OpenVINO can't load {} ({}); copy or export the bundle again")
def test_openvino_loads_a_copy(bundle: Path, copy: Path) -> None:
    pytest.importorskip("openvino")
    (copy / DECODER).write_bytes(b"no graph")
    graphs = manifests.read(bundle).graphs
    with said("OpenVINO can't load"):
        openvino.open_backend(copy, graphs, 1, True)
    shutil.copy(bundle / DECODER, copy / DECODER)
    assert openvino.open_backend(copy, graphs, 1, True)


@follows(
    "question contains {}, which stands for the image; leave it out", "token {}, and the student has embeddings for"
)
def test_left_out_of_a_question(bundle: Path) -> None:
    student = Student.load(bundle, backend="onnxruntime", threads=1)
    student.prompt.tokenizer.add_special_tokens(["<one more>"])
    for token in ("<image>", "<one more>"):
        with said("leave it out"):
            student.answer(tiny.picture(), f"what is {token} here?")
        assert student.answer(tiny.picture(), "what is here?", max_new_tokens=1).token_ids


@follows(
    "the prompt has {} tokens, the student reads {}; ask a shorter question",
    "{} of them the image's, and the student reads {}; give a smaller or a narrower image",
)
def test_a_shorter_question_and_a_narrower_image(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    square, narrow = tiny.picture(64, 64), tiny.picture(64, 16)
    with said("ask a shorter question"):
        student.answer(square, "what is it? " * 400)
    assert student.answer(square, "what is it?", max_new_tokens=1).token_ids
    monkeypatch.setattr(student, "context", len(student.ask(narrow, "what?").input_ids) + 1)
    with said("give a smaller or a narrower image"):
        student.answer(square, "what?")
    assert student.answer(narrow, "what?", max_new_tokens=1).token_ids


@follows(
    "threads is {}; it must be 1 or more",
    "max_new_tokens is {}; it must be 1 or more",
    "exactly {} tokens are asked for; the student has room for 1 to {}",
)
def test_numbers_within_their_bounds(student: Student, bundle: Path) -> None:
    with said("threads is 0"):
        Student.load(bundle, backend="onnxruntime", threads=0)
    assert Student.load(bundle, backend="onnxruntime", threads=1).threads == 1
    with said("max_new_tokens is 0"):
        student.answer(tiny.picture(), "what?", max_new_tokens=0)
    assert student.answer(tiny.picture(), "what?", max_new_tokens=1).token_ids
    with said("the student has room for 1 to ") as caught:
        student.answer(tiny.picture(), "what?", exactly=1000)
    room = int(str(caught.value).rpartition(" ")[2])
    assert len(student.answer(tiny.picture(), "what?", exactly=room).token_ids) == room


@follows(
    "there is no image file {}; check the path",
    "the image {} has too many pixels ({}); make it smaller",
    "the image {} can't be read ({}); give a whole PNG or JPEG",
)
def test_a_picture_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.png"
    with said("check the path"):
        images.open_image(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with said("give a whole PNG or JPEG"):
        images.open_image(path)
    tiny.picture().save(path)
    assert images.open_image(path).size == (64, 48)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 // 3)
    with said("make it smaller"):
        images.open_image(path)
    tiny.picture(32, 24).save(path)
    assert images.open_image(path).size == (32, 24)


@follows(
    "the image is {} x {} pixels; crop it until no side is over {} times the other",
    "the image is {} x {} pixels, and the bundle, which resizes none, reads whole blocks of {}; resize it first",
)
def test_a_cropped_picture_and_one_of_whole_blocks() -> None:
    given = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "do_resize": False}
    with said("reads whole blocks of 16; resize it first"):
        qwen_vl.preprocess(tiny.picture(33, 32), given)
    assert len(qwen_vl.preprocess(tiny.picture(33, 32).resize((32, 32)), given).inputs["pixel_values"]) == 16
    area = {"shortest_edge": 4 * 256, "longest_edge": 24 * 256}
    with said("crop it until no side is over 200 times the other"):
        qwen_vl._fitting_size((1, 201), 16, area)
    assert qwen_vl._fitting_size((1, 200), 16, area)


@follows(
    "there is no backend {}; use one of: auto, {}",
    "a bundle for {} can't run on backend {}; use one of: auto, {}",
    "opening.py: {} is a bundle for {}, which needs a package that can't be imported here ({}); run: pip install {}",
    "fastest.py: {} is a bundle for {}, which needs a package that can't be imported here ({}); run: pip install {}",
)
def test_a_backend_that_is_there(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "llamacpp"):
        with said("use one of: auto, ") as caught:
            Student.load(bundle, backend=name)
        assert "onnxruntime" in str(caught.value)
    assert Student.load(bundle, backend="onnxruntime", threads=1)
    packages = (ROOT / "pyproject.toml").read_text()
    for module in backends.modules().values():  # what pip is told to install is what our extras install
        assert re.search(rf'"{module.PACKAGE}\b', packages)
    with monkeypatch.context() as patched:
        patched.setattr("importlib.util.find_spec", lambda name: None)
        with said("run: pip install onnxruntime"):
            fastest.choose("onnx", bundle, {}, 1)
    with monkeypatch.context() as patched:
        patched.setitem(__import__("sys").modules, "onnxruntime", None)
        with said("run: pip install onnxruntime"):
            Student.load(bundle, backend="onnxruntime")


@follows("{} holds a student of model_type {}; this masters-edge answers with: {}")
def test_a_model_type_that_is_answered_with(copy: Path) -> None:
    with said("this masters-edge answers with: ") as caught:
        open_family("gpt2", copy)
    for name in str(caught.value).rpartition(": ")[2].split(", "):
        assert name != "smolvlm" or open_family(name, copy)


class Runner:
    """A static bundle's programs that say nothing: a context of 8 tokens, chunks of 4."""

    name = "none"

    def shapes(self, part: str, function: str) -> dict[str, tuple[int, ...]]:
        vision = {"pixel_values": (1, 3, 32, 32)}
        return vision if part == "vision_encoder" else {"attention_mask": (1, 1, 4, 8), "position_ids": (1, 1, 4)}

    def run(self, part: str, function: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return np.zeros((1, 4, 5), np.float32)

    def forget(self) -> None:
        pass


@follows(
    "prompt and answer are longer than the bundle's {} tokens; ask for a shorter answer, or give a smaller picture"
)
def test_a_static_bundle_takes_what_fits() -> None:
    backend = _static.StaticStudent(Runner())
    backend.forward(np.zeros((1, 6, 3), np.float32), np.arange(6)[None])
    for place in (6, 7):
        backend.forward(np.zeros((1, 1, 3), np.float32), np.array([[place]]))
    with said("ask for a shorter answer, or give a smaller picture"):
        backend.forward(np.zeros((1, 1, 3), np.float32), np.array([[8]]))
    backend.start()
    with said("ask for a shorter answer, or give a smaller picture"):
        backend.forward(np.zeros((1, 9, 3), np.float32), np.arange(9)[None])
    assert backend.forward(np.zeros((1, 7, 3), np.float32), np.arange(7)[None]).shape[1] == 7


@follows(
    "this bundle reads whole frames, and the picture leaves part of one empty; resize it first",
    "this bundle reads frames of {} pixels, not {}; its settings don't fit its graphs: export it again",
    "this bundle reads one picture of at most {} patches, not {}; make it smaller",
)
def test_a_picture_that_a_static_graph_takes() -> None:
    def run(feed: dict[str, np.ndarray]) -> np.ndarray:
        return np.zeros((4, 8), np.float32)

    taken = {"pixel_values": (1, 3, 32, 32)}
    frame, whole = np.zeros((1, 1, 3, 32, 32), np.float32), np.ones((1, 1, 32, 32), bool)
    part = whole.copy()
    part[..., 20:, :] = False
    with said("resize it first"):
        _static.look(taken, {"pixel_values": frame, "pixel_attention_mask": part}, run)
    assert len(_static.look(taken, {"pixel_values": frame, "pixel_attention_mask": whole}, run)) == 4
    with said("32 x 32 pixels, not 16 x 16; its settings don't fit its graphs"):
        _static.look(taken, {"pixel_values": frame[..., :16, :16]}, run)
    patches = {"pixel_values": (16, 8), "image_grid_thw": (1, 3)}
    with said("at most 16 patches, not 20; make it smaller"):
        _static.look(patches, {"pixel_values": np.zeros((20, 8)), "image_grid_thw": np.array([[1, 4, 5]])}, run)
    assert (
        len(_static.look(patches, {"pixel_values": np.zeros((16, 8)), "image_grid_thw": np.array([[1, 4, 4]])}, run))
        == 4
    )
