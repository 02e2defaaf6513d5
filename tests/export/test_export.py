"""The whole way from a student folder to a bundle, and every way it can fail without leaving anything behind."""

import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from torch import nn

from masters_edge.bundle import manifest as manifests
from masters_edge.common.errors import UserError
from masters_edge.export import export_student, graphs, schemes, target_names
from masters_edge.export.targets import onnx as onnx_target
from masters_edge.runtime import Student, fastest
from masters_edge.runtime.student import free_threads
from tests import wide
from tests.export import bundles
from tests.runtime.test_contained import DIES, let_openvino


def export(out: Path, student: Path | None = None, **changes) -> manifests.Manifest:
    settings = dict(target="onnx", scheme="int4", samples=bundles.samples(1))
    return export_student(student or bundles.student("smolvlm"), out=out, **{**settings, **changes})


def test_what_there_is() -> None:
    assert {"onnx", "onnx_portable"} <= set(target_names())
    assert {"fp32", "fp16", "int8", "int4", "balanced"} <= set(schemes())


@pytest.mark.parametrize(
    ("family", "scheme", "splitting"),
    wide.cells(
        [("smolvlm", "fp32", True), ("smolvlm", "int4", False), ("idefics3", "int4", True)],
        [("smolvlm", "int4", False)],
    ),
)
def test_families_and_schemes(family: str, scheme: str, splitting: bool) -> None:
    folder = bundles.exported(family, scheme, splitting)
    manifest = manifests.check(folder)
    assert (manifest.model_type, manifest.target, manifest.scheme) == (family, "onnx", scheme)
    assert manifest.student.fingerprint == manifests.fingerprint(bundles.student(family, splitting))
    exact = manifest.parity.exact
    assert list(exact.parts) == ["vision_encoder", "embed_tokens", "decoder"]
    assert exact.parts["embed_tokens"].max_relative_error == 0
    assert all(part.max_relative_error < 1e-5 for part in exact.parts.values())
    assert exact.equal_answers == 1
    assert manifest.parity.samples == 3
    if scheme == "fp32":
        assert manifest.parity.shipped.equal_answers == 1
    assert set(manifest.graphs) == {"vision_encoder", "embed_tokens", "decoder"}
    assert {"torch", "transformers", "onnx", "onnxruntime"} <= set(manifest.versions)
    assert not [path.name for path in folder.parent.iterdir() if path.name.startswith(".")]
    assert not list(folder.rglob("*.safetensors"))


def test_the_manifest_says_what_was_quantized() -> None:
    found = manifests.read(bundles.exported("smolvlm", "int4")).quantization
    assert found.parts["head"].startswith("int4") and found.parts["embeddings"] == "float32"
    assert [line.split(":")[0] for line in found.kept_float32] == [
        f"model.vision_model.encoder.layers.{layer}.mlp.fc2" for layer in (0, 1)
    ]
    assert "shared its weight with the token embedding" in found.notes[0]
    whole = manifests.read(bundles.exported("smolvlm", "fp32", True)).quantization
    assert set(whole.parts.values()) == {"float32"} and not whole.kept_float32


def test_progress_goes_from_0_to_1() -> None:
    shares = bundles.progress(bundles.exported("smolvlm", "fp32", True))
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": "onxx"}, "did you mean 'onnx'"),
        ({"target": "zzz"}, "use one of: .*onnx"),
        ({"scheme": "int44"}, "did you mean 'int4'"),
        ({"scheme": "record"}, "no quantization scheme"),
        ({"method": "nearest"}, "no quantization method"),
        ({"samples": []}, "give one or more"),
        ({"student": Path("none")}, "no student folder"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        export(tmp_path / "out", **changes)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_students_that_can_not_be_exported(tmp_path: Path) -> None:
    student = Path(shutil.copytree(bundles.student("smolvlm"), tmp_path / "student"))
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(json.dumps({**config, "model_type": "llava"}))
    with pytest.raises(UserError, match="'llava' can't be exported yet; these can: idefics3, .*smolvlm"):
        export(tmp_path / "out", student)
    (student / "config.json").write_text(json.dumps(config))
    template = (student / "chat_template.jinja").read_text()
    (student / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        export(tmp_path / "out", student)
    (student / "chat_template.jinja").write_text(template)
    weights = load_file(student / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "layers.1" not in k}, student / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UserError, match="lacks weights .*layers.1"):
        export(tmp_path / "out", student)
    (student / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="can't be loaded"):
        export(tmp_path / "out", student)
    (student / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no \\*.safetensors"):
        export(tmp_path / "out", student)
    (student / "config.json").unlink()
    with pytest.raises(UserError, match="no config.json"):
        export(tmp_path / "out", student)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


@pytest.mark.parametrize(
    ("broken", "words"),
    wide.cells(
        [
            ("model.text_model.layers.0.input_layernorm", "decoder .model.text_model.layers.0, or what comes before"),
            ("model.text_model.layers.1.input_layernorm", "decoder .model.text_model.layers.1, or what comes after"),
            ("model.vision_model.encoder.layers.1.layer_norm1", "vision_encoder .model.vision_model.encoder.layers.1"),
        ],
        [],
    ),
)
def test_a_wrong_layer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, words: str) -> None:
    capture = graphs.Part.capture

    def spoil(part):
        program = capture(part)
        for name, value in program.state_dict.items():
            if part.student_name(name).startswith(broken):
                program.state_dict[name] = nn.Parameter(value * 1.5, requires_grad=False)
        return program

    monkeypatch.setattr(graphs.Part, "capture", spoil)
    with pytest.raises(UserError, match=f"parity failed: {words}.* is off by .*no bundle was written"):
        export(tmp_path / "out", scheme="fp32")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.wide
def test_integers_that_are_not_torchaos_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = onnx_target.integers

    def spoil(folder, graphs):
        for name, integers, scales in decode(folder, graphs):
            yield name, np.where(integers == 7, 6, integers) if "layers.1.mlp.up_proj" in name else integers, scales

    monkeypatch.setattr(onnx_target, "integers", spoil)
    with pytest.raises(UserError, match="the integers of .*layers.1.mlp.up_proj.weight in the files are not torchao's"):
        export(tmp_path / "out")
    monkeypatch.setattr(onnx_target, "integers", lambda *about: list(decode(*about))[1:])
    with pytest.raises(UserError, match="its integers are not in the files"):
        export(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.wide
def test_an_old_bundle_survives_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Path(shutil.copytree(bundles.exported("smolvlm", "int4"), tmp_path / "out"))

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx_target.ir, "save", full)
    with pytest.raises(UserError, match="disk is full"):
        export(out)
    manifests.check(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_foreign_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is no bundle"):
        export(tmp_path)


@pytest.mark.wide
def test_a_normal_run_prints_nothing(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from masters_edge.export import export_student
from tests import tiny, wide
export_student(Path({str(bundles.student("idefics3", True))!r}), target="onnx", scheme="int4",
               out=Path({str(tmp_path / "out")!r}), samples=[(tiny.picture(), "what?")])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_importing_the_package_is_light() -> None:
    code = "import sys, masters_edge.export; masters_edge.export.target_names();"
    code += "assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.wide
def test_a_runtime_that_dies_of_what_ships_is_left_at_its_next_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenVINO does of narrow students on processors with AMX; then `auto` takes that setting too, untried."""
    monkeypatch.setenv("MASTERS_EDGE_CACHE", str(tmp_path / "cache"))
    let_openvino(DIES, tmp_path, monkeypatch)
    manifest = export(tmp_path / "out", target="openvino", scheme="fp32")
    why = r"openvino 2\S+ fails at the settings that ship: its process was ended by SIGFPE; so .* as openvino:f32"
    assert re.search(why, manifest.parity.died or "") and (manifest.parity.shipped.logprob_error or 1) < 0.05
    assert re.search(why, (tmp_path / "out" / "README.md").read_text())
    monkeypatch.setattr(fastest, "_child", lambda job: pytest.fail("nothing was to be tried"))
    student = Student.load(tmp_path / "out", threads=free_threads())
    assert student.backend.name == "openvino:f32" and "SIGFPE" in student.backend.choice.reason


@pytest.mark.wide
def test_a_runtime_that_dies_of_everything_makes_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "xllamacpp.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    with pytest.raises(
        UserError, match="xllamacpp 2.* fails at its most exact settings: .*SIGABRT; no bundle was written"
    ):
        export(tmp_path / "out", target="gguf", scheme="fp32")
    assert [path.name for path in tmp_path.iterdir()] == ["code"]


@pytest.mark.wide
@pytest.mark.parametrize(("target", "scheme"), [("gguf", "fp16"), ("coreml", "int4")])
def test_values_that_float16_can_not_hold_make_no_bundle_and_fp32_does(
    target: str, scheme: str, tmp_path: Path
) -> None:
    """As Qwen-VL's vision MLPs have them: the student's own answers are sensible, and its weights fit."""
    from transformers import AutoModelForImageTextToText

    student = Path(shutil.copytree(bundles.student("smolvlm"), tmp_path / "student"))
    model = AutoModelForImageTextToText.from_pretrained(student)
    mlp = model.model.vision_model.encoder.layers[0].mlp
    for parameter, factor in ((mlp.fc1.weight, 2e4), (mlp.fc1.bias, 2e4), (mlp.fc2.weight, 1 / 2e4)):
        parameter.data *= factor
    model.save_pretrained(student)
    with pytest.raises(UserError, match=r"layers.0.mlp.fc1 \(\d+,\d+\) passes 65,504, .*no bundle .*fp32 computes"):
        export(tmp_path / "out", student, target=target, scheme=scheme)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    export(tmp_path / "out", student, target=target, scheme="fp32")


def test_positions_that_change_with_the_length_are_refused(tmp_path: Path) -> None:
    student = Path(shutil.copytree(bundles.student("smolvlm"), tmp_path / "student"))
    config = json.loads((student / "config.json").read_text())
    long = dict(rope_type="longrope", rope_theta=1e4, factor=2.0, original_max_position_embeddings=256)
    config["text_config"]["rope_parameters"] = long | dict(short_factor=[1.0] * 8, long_factor=[2.0] * 8)
    (student / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"rotary positions \(longrope\) .*; nothing was written"):
        export(tmp_path / "out", student)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
