"""What is advised about bundles: copied or exported again, moved out of the way, room made."""

import errno
import json
import shutil
from pathlib import Path

import pytest

from masters_edge.bundle import inspection
from masters_edge.bundle import manifest as manifests
from tests.advice import follows, said
from tests.bundle.test_manifest import manifest


def export(out: Path) -> Path:
    """As an export does it: whole into a folder beside, then in the old one's place."""
    with manifests.building(out) as folder:
        (folder / "onnx").mkdir()
        (folder / "onnx/decoder.onnx").write_bytes(b"graph")
        (folder / "config.json").write_text("{}")
        manifests.write(folder, manifest())
    return out


def rewrite(bundle: Path, **changes: object) -> None:
    path = bundle / manifests.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# What is said -> what happened to the bundle. Each is cured by copying the bundle, and by exporting it, again.
HURT = {
    "can't be read": lambda bundle: (bundle / manifests.MANIFEST).write_bytes(b"\xff{"),
    "files: Input should be a valid list": lambda bundle: rewrite(bundle, files=7),
    "is missing": lambda bundle: (bundle / "onnx/decoder.onnx").unlink(),
    "has changed": lambda bundle: (bundle / "onnx/decoder.onnx").write_bytes(b"grapH"),
    "does not belong": lambda bundle: (bundle / "notes.txt").write_text("mine"),
}


@follows(
    "{}: {}: {}; copy or export the bundle again",
    "{}: the file {} has changed since the bundle was made; {}",
    "{}: the file {} does not belong to the bundle; remove it, or {}",
)
@pytest.mark.parametrize("words", HURT)
def test_copied_or_exported_again(words: str, tmp_path: Path) -> None:
    whole = export(tmp_path / "whole")
    for copied in (False, True):
        bundle = export(tmp_path / "bundle")
        HURT[words](bundle)
        with said(words) as caught:
            manifests.check(bundle)
        assert "again" in str(caught.value)
        if copied:
            shutil.rmtree(bundle)
            shutil.copytree(whole, bundle)
        else:
            export(bundle)
        assert manifests.check(bundle).files


@follows("{}: the file {} is a pickle")
def test_a_pickle_is_left_alone(tmp_path: Path) -> None:
    bundle = export(tmp_path / "bundle")
    (bundle / "onnx/decoder.onnx").write_bytes(b"\x80\x04.")
    manifests.write(bundle, manifests.read(bundle))
    with said("don't use the bundle"):
        inspection.inspect(bundle)


@follows(
    "{} {}; give the folder that `masters-edge export` wrote", "has schema version {}, this masters-edge reads {}; {}"
)
def test_the_folder_that_an_export_wrote(tmp_path: Path) -> None:
    bundle = export(tmp_path / "bundles" / "onnx")
    for folder in (tmp_path / "bundles", tmp_path / "none"):
        with said("give the folder that `masters-edge export` wrote"):
            manifests.read(folder)
    assert manifests.read(bundle)
    rewrite(bundle, schema_version=0)
    with said("export the student again with this masters-edge"):
        manifests.read(bundle)
    assert manifests.read(export(bundle))
    rewrite(bundle, schema_version=manifests.SCHEMA_VERSION + 1)
    with said("upgrade masters-edge"):
        manifests.read(bundle)


@follows("{} exists and is no bundle; choose", "{} exists and is no folder; choose")
def test_another_place_or_the_old_one_removed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").touch()
    (tmp_path / "file").touch()
    for name, words in (
        ("folder", "is no bundle; choose another folder"),
        ("file", "is no folder; choose another name"),
    ):
        with said(words):
            export(tmp_path / name)
        assert manifests.check(export(tmp_path / f"other {name}"))
    shutil.rmtree(tmp_path / "folder")
    (tmp_path / "file").unlink()
    assert manifests.check(export(tmp_path / "folder")) and manifests.check(export(tmp_path / "file"))


@follows("disk is full while writing {}", "{} can't be written to ({}); choose another folder")
def test_with_room_it_is_written(tmp_path: Path) -> None:
    for number, words in ((errno.ENOSPC, "free some space and run the export again"), (errno.EROFS, "choose another")):
        with said(words), manifests.building(tmp_path / "bundle"):
            raise OSError(number, "no")
        assert manifests.check(export(tmp_path / "bundle"))


@follows("{} holds no *.safetensors file; give the folder of a saved checkpoint")
def test_a_saved_checkpoint_has_weights(tmp_path: Path) -> None:
    with said("give the folder of a saved checkpoint"):
        manifests.fingerprint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert manifests.fingerprint(tmp_path)
