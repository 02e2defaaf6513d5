"""What is in the wheel: every file of the rooms that isn't Python's, and nothing that doesn't belong there."""

import email
import json
import shutil
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from masters_edge.benchmarks.devices import _wheel
from masters_edge.benchmarks.page import assets
from tests.package import source

# Folder in the repository -> its name in the wheel; the first that fits.
PLACES = {
    "export/optimum_register/": "optimum/commands/register/",
    "export/": "masters_edge/export/",
    "benchmarks/": "masters_edge/benchmarks/",
    "recipes/": "masters_edge/recipes/",
    "masters_edge/": "masters_edge/",
}
NOTICES = "benchmarks/page/notices/"
FETCHED = "masters_edge/benchmarks/page/assets/"  # from npm, tracked by nobody
# Scripts that make figures and the demo's checkpoints, and a task of another project: for a clone.
CLONE_ALONE = ("recipes/*/*.py", "recipes/lmms_eval/*", f"{NOTICES}*")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from the tracked files; with what npm has, where the checkout has it."""
    place = source.copy(tmp_path_factory.mktemp("source"))
    if assets.ready():
        shutil.copytree(assets.FOLDER, place / "benchmarks/page/assets")
    return zipfile.ZipFile(source.build_wheel(place, tmp_path_factory.mktemp("wheel"))[0])


@pytest.mark.wide
def test_holds_the_rooms_files_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = [name for name in source.tracked() if not any(fnmatch(name, pattern) for pattern in CLONE_ALONE)]
    wanted = {
        name.replace(folder, place, 1)
        for name in names
        for folder, place in [next((pair for pair in PLACES.items() if name.startswith(pair[0])), ("", ""))]
        if folder
    }
    if assets.ready():
        wanted |= {f"{FETCHED}{name}" for name in (*assets.files(), "lock.txt")}
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == wanted
    for file in ("benchmarks/page/web/worker.js", "benchmarks/page/package-lock.json", "py.typed", "recipes/demo.yaml"):
        assert f"masters_edge/{file}" in found


def test_metadata_name_the_licence_and_carry_every_notice(wheel: zipfile.ZipFile) -> None:
    [info] = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    about = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert about["License-Expression"] == "Apache-2.0"
    notices = [name for name in source.tracked() if name.startswith(NOTICES)]
    assert len(notices) == 3
    for name in ("LICENSE", "NOTICE", *notices):
        assert wheel.read(f"{info}/licenses/{name}") == (source.ROOT / name).read_bytes()
    said = wheel.read(f"{info}/licenses/NOTICE").decode()
    assert all(name in said for name in (*assets.versions(), *notices))
    # What npm has and carries no licence of its own, as the packages themselves name it.
    locked = json.loads((assets.HERE / "package-lock.json").read_text())["packages"]
    licences = {"@huggingface/transformers": "Apache-2.0", "@huggingface/tokenizers": "Apache-2.0"}
    licences |= {"@huggingface/jinja": "MIT", "onnxruntime-web": "MIT", "onnxruntime-common": "MIT"}
    for package, licence in licences.items():
        assert package in said and locked[f"node_modules/{package}"]["license"] == licence


def test_a_board_gets_the_same_without_page_and_demo(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Both ways: what a board's wheel lacks of setuptools', and what it has beside it."""
    with zipfile.ZipFile(_wheel.build(tmp_path)) as ours:
        other = ("optimum/", FETCHED, "masters_edge/recipes/")  # of the host alone
        theirs = {name for name in wheel.namelist() if ".dist-info/" not in name and not name.startswith(other)}
        assert theirs == {name for name in ours.namelist() if ".dist-info/" not in name}
        assert all(wheel.read(name) == ours.read(name) for name in theirs)


def test_a_version_without_git_and_tags(wheel: zipfile.ZipFile) -> None:
    assert Path(wheel.filename or "").name == "masters_edge-0.1.0.dev0-py3-none-any.whl"
