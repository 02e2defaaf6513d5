"""Fetching what the page runs from npm: once, checked, whole or not at all. `npm` is a stand-in here."""

import base64
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from masters_edge.benchmarks.page import assets

LOCK = json.loads((assets.HERE / "package-lock.json").read_text())
FILES = {"@huggingface/transformers": "4.3.1", "onnxruntime-web": "1.31.0"}
# Writes the package's tarball as `npm pack --pack-destination` does, and notes that it was asked.
NPM = """#!{python}
import pathlib, shutil, sys
folder = pathlib.Path(__file__).parent
with (folder / "asked").open("a") as log:
    log.write(sys.argv[2] + "\\n")
source = folder / (sys.argv[2].rpartition("@")[0].replace("/", "-").lstrip("@") + ".tgz")
if not source.exists():
    sys.exit("npm error code E404\\nnpm error FetchError: request failed\\nnpm error a log is somewhere")
shutil.copy(source, sys.argv[sys.argv.index("--pack-destination") + 1])
"""


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its folder; the lock file next to it pins what it has."""
    if sys.platform == "win32":
        pytest.skip("the stand-in is a script with a first line that says who runs it")
    packages: dict[str, Any] = {}
    for package, version in FILES.items():
        path = tmp_path / f"{package.replace('/', '-').lstrip('@')}.tgz"
        with tarfile.open(path, "w:gz") as archive:
            inside = [inside for owner, inside in assets._TABLE.values() if owner == package]
            for name in [*inside, "dist/not-served.js"]:
                member = tarfile.TarInfo(f"package/{name}")
                member.size = len(name)
                archive.addfile(member, io.BytesIO(name.encode()))
        digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
        packages[f"node_modules/{package}"] = {"version": version, "integrity": f"sha512-{digest}"}
    (tmp_path / "package-lock.json").write_text(json.dumps({"packages": packages}))
    (tmp_path / "npm").write_text(NPM.format(python=sys.executable))
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(assets, "HERE", tmp_path)
    return tmp_path


def test_fetches_once_and_only_what_is_served(npm: Path) -> None:
    folder = npm / "assets"
    assert not assets.ready(folder)
    assets.fetch(folder)
    assert assets.ready(folder)
    assert {path.name for path in folder.iterdir()} == {*assets.files(), "lock.txt"}
    for name, path in assets.files(folder).items():
        assert path.read_text() == assets._TABLE[name][1]
    assets.fetch(folder)
    assert (npm / "asked").read_text().splitlines() == [f"{name}@{version}" for name, version in FILES.items()]

    (folder / "lock.txt").write_text("of another version")
    assert not assets.ready(folder)
    assets.fetch(folder)
    assert assets.ready(folder)
    next(iter(assets.files(folder).values())).unlink()
    assert not assets.ready(folder)


def test_what_isnt_what_was_pinned_is_refused(npm: Path) -> None:
    (npm / "onnxruntime-web.tgz").write_bytes((npm / "huggingface-transformers.tgz").read_bytes())
    with pytest.raises(assets.CannotFetch, match="onnxruntime-web 1.31.0 from npm isn't the one .*: its hash differs"):
        assets.fetch(npm / "assets")
    assert not [path for path in npm.iterdir() if path.name.startswith("assets")]


def test_what_cannot_be_had_is_said(npm: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (npm / "onnxruntime-web.tgz").unlink()
    with pytest.raises(
        assets.CannotFetch, match=r"npm can't fetch onnxruntime-web 1.31.0 \(FetchError: request failed\)"
    ):
        assets.fetch(npm / "assets")
    assert assets.missing().endswith(f"connect to the network, then run: {assets.COMMAND}")
    (npm / "npm").unlink()
    monkeypatch.setattr(assets, "FOLDER", npm / "assets")
    monkeypatch.setattr(assets.fetch, "__defaults__", (npm / "assets",))
    assert assets.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("Error: npm isn't installed; the page has no transformers.js yet")
    assert f"install Node.js (its npm fetches them), then run: {assets.COMMAND}" in said


def test_the_lock_file_names_no_registry_and_one_onnxruntime() -> None:
    packages = LOCK["packages"]
    assert not any("resolved" in entry for entry in packages.values())
    pinned = packages["node_modules/onnxruntime-web"]["version"]
    assert packages["node_modules/@huggingface/transformers"]["dependencies"]["onnxruntime-web"] == pinned
    declared = json.loads((assets.HERE / "package.json").read_text())["dependencies"]
    assert declared == assets.versions() == packages[""]["dependencies"]


def test_the_page_runs_what_the_tests_in_node_run() -> None:
    theirs = json.loads((Path(__file__).parents[1] / "transformers_js" / "package-lock.json").read_text())["packages"]
    for package in assets.versions():
        assert theirs[f"node_modules/{package}"] == LOCK["packages"][f"node_modules/{package}"]
