"""`inspect` shows a bundle and finds what is wrong with it; nothing in a bundle is a pickle."""

import io
import json
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from masters_edge.bundle import inspection
from masters_edge.bundle import manifest as manifests
from masters_edge.bundle.origin import Checkpoint, Origin
from masters_edge.common.errors import UserError
from tests import wide
from tests.bundle.test_manifest import manifest
from tests.export import bundles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "onnx").mkdir()
    (path / "onnx" / "decoder.onnx").write_bytes(b"graph")
    origin = Origin(name="[red]demo", student=Checkpoint(name="small", licence="mit"))
    manifests.write(path, manifest(origin=origin, notes=["a [bold]note"]))
    return path


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "masters_edge", "inspect", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_shows_the_manifest_and_ends_well(folder: Path, capsys: pytest.CaptureFixture) -> None:
    inspection.inspect(folder)
    said = capsys.readouterr().out
    for words in ("smolvlm for onnx, fp32", "decoder.onnx", "1.0e-06", "small (licence: mit)", "a [bold]note"):
        assert words in said, words
    assert said.strip().splitlines()[-1] == "every file is as it was written"


def test_json_is_the_manifest(folder: Path) -> None:
    done = run(str(folder), "--json")
    assert done.returncode == 0 and json.loads(done.stdout) == json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_changed_file_is_one_sentence_and_status_2(folder: Path, arguments: tuple[str, ...]) -> None:
    (folder / "onnx" / "decoder.onnx").write_bytes(b"grapf")
    done = run(str(folder), *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "decoder.onnx has changed" in done.stderr
    assert "as it was written" not in done.stdout and not (arguments and done.stdout)


def test_big_files_show_a_bar(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(inspection, "_SLOW", 1)
    (folder / "onnx" / "decoder.onnx").write_bytes(bytes(5_000_000))
    manifests.write(folder, manifests.read(folder))
    inspection.inspect(folder)
    assert "checking files, MB" in (said := capsys.readouterr().out) and "5/5" in said


def torch_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [pickle.dumps({"weight": list(range(500))}, protocol) for protocol in (2, 3, 4, 5)]
    + [torch_zip(), pickle.dumps(print)],
    ids=["2", "3", "4", "5", "torch", "call"],
)
def test_a_pickle_is_refused_whatever_its_name(folder: Path, content: bytes) -> None:
    (folder / "weights.bin").write_bytes(content)
    manifests.write(folder, manifests.read(folder))
    with pytest.raises(UserError, match="weights.bin is a pickle") as error:
        inspection.inspect(folder)
    assert "\n" not in str(error.value)


def test_torch_saves_pickles_in_both_its_formats(tmp_path: Path) -> None:
    import torch

    for zipped in (True, False):
        torch.save({"w": torch.zeros(3)}, tmp_path / "w.bin", _use_new_zipfile_serialization=zipped)
        assert inspection.is_pickle(tmp_path / "w.bin")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pickletools")
def test_other_content_is_no_pickle(tmp_path: Path) -> None:
    path = tmp_path / "weight.bin"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "x")
    for content in (b"", b"\x80", b"\x80\x02", b"PK\x03\x04 cut", b"{}", buffer.getvalue(), b"\x80\x09."):
        path.write_bytes(content)
        assert not inspection.is_pickle(path), content[:8]
    rng, taken = random.Random(0), 0
    for _ in range(300):  # weights that begin as a pickle would: two bytes that one file in 16,384 has
        path.write_bytes(b"\x80" + bytes([rng.randint(2, 5)]) + rng.randbytes(5000))
        taken += inspection.is_pickle(path)
    assert taken <= 6  # of those one in a hundred ends well at once


@pytest.mark.parametrize("scheme", wide.cells(["fp32", "int4"], ["int4"]))
def test_an_exported_bundle_holds_no_pickle(scheme: str) -> None:
    made = bundles.exported("smolvlm", scheme)
    inspection.check(made, manifests.read(made))
    assert not any(inspection.is_pickle(path) for path in made.rglob("*") if path.is_file())


def test_it_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None;"
        f"from masters_edge.bundle import inspection; inspection.inspect({str(folder)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
