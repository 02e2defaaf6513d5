"""The manifest and the folder around it: every way a bundle can be wrong is one sentence, nothing is half-written."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from masters_edge.bundle import manifest as manifests
from masters_edge.common.errors import UserError


def manifest(**changes) -> manifests.Manifest:
    part = manifests.PartParity(max_relative_error=1e-6)
    settings = dict(
        created="2026-11-25T00:00:00+00:00",
        masters_edge="0.1.0",
        model_type="smolvlm",
        target="onnx",
        scheme="fp32",
        graphs={"decoder": "onnx/decoder.onnx"},
        student=manifests.Source(name="student", fingerprint="0" * 64),
        quantization=manifests.Quantization(
            schemes={"decoder": "fp32"}, method="rtn", tied="never", parts={"decoder": "float32"}
        ),
        parity=manifests.Parity(
            samples=1,
            tolerance=1e-3,
            exact=manifests.ExactParity(parts={"decoder": part}, equal_answers=1),
            shipped=manifests.ShippedParity(equal_answers=1),
        ),
        versions={"torch": "2"},
    )
    return manifests.Manifest(**{**settings, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    (path / "onnx").mkdir(parents=True)
    (path / "onnx" / "decoder.onnx").write_bytes(b"graph")
    (path / "config.json").write_text("{}")
    manifests.write(path, manifest())
    return path


def rewrite(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_round_trip(folder: Path) -> None:
    found = manifests.check(folder)
    assert [(file.path, file.bytes) for file in found.files] == [("config.json", 2), ("onnx/decoder.onnx", 5)]
    assert found.bytes == 7
    assert found == manifests.read(folder)


def test_files_of_a_file_manager_are_no_change(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"x")
    manifests.check(folder)


def test_a_changed_byte_is_named(folder: Path) -> None:
    (folder / "onnx" / "decoder.onnx").write_bytes(b"grapf")
    with pytest.raises(UserError, match="onnx/decoder.onnx has changed"):
        manifests.check(folder)


def test_a_missing_and_an_extra_file_are_named(folder: Path) -> None:
    (folder / "new.txt").write_text("x")
    with pytest.raises(UserError, match="new.txt does not belong"):
        manifests.check(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="config.json is missing"):
        manifests.check(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 4}, "upgrade masters-edge"),
        ({"schema_version": 1}, "export the student again"),
        ({"schema_version": 0}, "export the student again"),
        ({"schema_version": "x"}, "export the student again"),
        ({"graphs": 3}, "graphs"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_other_schemas_are_refused(folder: Path, change: dict, words: str) -> None:
    rewrite(folder, **change)
    with pytest.raises(UserError, match=words) as error:
        manifests.read(folder)
    assert "\n" not in str(error.value)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        manifests.read(tmp_path / "none")
    with pytest.raises(UserError, match="is no bundle"):
        manifests.read(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        manifests.read(tmp_path)


def test_nothing_stays_when_building_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), manifests.building(tmp_path / "deep" / "out") as folder:
        (folder / "file").write_text("x")
        raise RuntimeError
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="disk is full"), manifests.building(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_an_old_bundle_is_replaced_only_at_the_end(folder: Path) -> None:
    with pytest.raises(RuntimeError), manifests.building(folder):
        raise RuntimeError
    manifests.check(folder)
    with manifests.building(folder) as new:
        (new / "only.txt").write_text("x")
        manifests.write(new, manifest(graphs={"decoder": "only.txt"}))
    assert [file.path for file in manifests.check(folder).files] == ["only.txt"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="is no bundle"), manifests.building(tmp_path):
        pass
    with pytest.raises(UserError, match="is no folder"), manifests.building(tmp_path / "holiday.jpg"):
        pass
    assert (tmp_path / "holiday.jpg").exists()


def test_fingerprint_follows_the_weights_alone(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = manifests.fingerprint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert manifests.fingerprint(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"weightz")
    assert manifests.fingerprint(tmp_path) != first
    with pytest.raises(UserError, match="safetensors"):
        manifests.fingerprint(tmp_path / "none")


def test_import_is_light() -> None:
    code = "import sys, masters_edge.bundle.manifest; assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
