"""Names of files out of manifests, indexes and boards: none leads out of its folder, none is anything but a file."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masters_edge.common import inside
from masters_edge.common.errors import UserError

NAMES = [
    "", ".", "..", "/", "/etc/passwd", "../secret", "a/../../secret", "a/..", "./a", "a//b", "a/", "/a", "\\a",
    "..\\secret", "a\\..\\b", "C:", "C:/a", "C:a", "a:stream", "a\0b", "a\nb", "a\x1b[2Jb", "a\u202eb", " a",
    "a ", "a\t", "a" * 256, "a/" * 600 + "a", None, 3, 1.5, True, ["a"], {"a": 1}, b"a", "*/_ORT_MEM_ADDR_/*",
    "\ud800", "a/./b", "//host/share/a",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "bundle"
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "decoder.onnx").write_text("graph")
    return folder


@pytest.mark.parametrize("name", NAMES, ids=[f"{number}" for number in range(len(NAMES))])
def test_no_name_leads_out(folder: Path, name: object) -> None:
    assert inside.parts(name) is None or not os.path.lexists(folder.joinpath(*inside.parts(name) or ()))
    with pytest.raises(UserError) as error:
        inside.opened(folder, name)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["onnx/decoder.onnx", "onnx/../onnx/decoder.onnx"])
def test_a_plain_name_is_opened(folder: Path, name: str) -> None:
    if ".." in name:
        with pytest.raises(UserError, match="is no name of a file inside the folder"):
            inside.opened(folder, name)
    else:
        assert inside.read(folder, name, 100) == b"graph"
        assert list(inside.files(folder)) == [name]


def _fifo(path: Path) -> None:
    os.mkfifo(path)


LINKS = {
    "out": (lambda path: path.symlink_to("../../secret"), "is a link out of the folder"),
    "absolute": (lambda path: path.symlink_to("/etc/passwd"), "is a link out of the folder"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a link out of the folder"),
    "loop": (lambda path: path.symlink_to(path.name), "can't be reached"),
    "nowhere": (lambda path: path.symlink_to("nowhere"), "is missing"),
    "fifo": (_fifo, "is no regular file, but a FIFO"),
    "folder": (lambda path: path.mkdir(), "is no regular file, but a folder"),
    "too large": (lambda path: path.write_bytes(bytes(101)), "has more than 100 bytes"),
}


@pytest.mark.parametrize("case", LINKS)
def test_no_file_is_a_way_out(folder: Path, case: str) -> None:
    make, words = LINKS[case]
    make(folder / "onnx" / "x.json")
    with pytest.raises(UserError, match=words):
        inside.read(folder, "onnx/x.json", 100)
    if case not in ("folder", "too large"):
        with pytest.raises(UserError, match=words):
            list(inside.files(folder))


def test_a_linked_folder_is_refused_by_name_and_in_a_listing(folder: Path) -> None:
    (folder / "more").symlink_to("..")
    with pytest.raises(UserError, match="link out of the folder"):
        inside.place(folder, "more/secret")
    with pytest.raises(UserError, match="more is a linked folder"):
        list(inside.files(folder))


def test_a_link_within_the_folder_is_a_file(folder: Path) -> None:
    (folder / "same.onnx").symlink_to("onnx/decoder.onnx")
    assert inside.read(folder, "same.onnx", 100) == b"graph"


def test_the_hubs_cache_is_made_of_links(tmp_path: Path) -> None:
    """snapshots/<commit>/<file> -> ../../blobs/<hash>: as good as files; but nothing else beside the snapshot is."""
    model = tmp_path / "models--a--b"
    snapshot = model / "snapshots" / "0123"
    (snapshot / "onnx-int4").mkdir(parents=True)
    (model / "blobs").mkdir()
    (model / "blobs" / "abc").write_text("weights")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0123")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    (snapshot / "onnx-int4" / "graph.onnx").symlink_to("../../../blobs/abc")
    assert inside.read(snapshot, "model.safetensors", 100) == b"weights"
    assert inside.read(snapshot / "onnx-int4", "graph.onnx", 100) == b"weights"
    assert len(list(inside.files(snapshot))) == 2
    (snapshot / "ref").symlink_to("../../refs/main")
    with pytest.raises(UserError, match="link out"):
        inside.place(snapshot, "ref")
    (model / "blobs" / "out").symlink_to("/etc/passwd")
    (snapshot / "evil").symlink_to("../../blobs/out")
    with pytest.raises(UserError, match="link out"):
        inside.place(snapshot, "evil")


def test_a_package_holds_no_way_out(folder: Path) -> None:
    package = folder / "decoder.mlpackage"
    (package / "Data").mkdir(parents=True)
    assert inside.subfolder(folder, "decoder.mlpackage") == package
    (package / "Data" / "weights").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="link out"):
        inside.subfolder(folder, "decoder.mlpackage")


@given(st.text(alphabet=st.sampled_from("./\\:*a\0\n ~"), max_size=12) | st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_whatever_the_name_it_stays_below(name: str) -> None:
    parts = inside.parts(name)
    if parts is not None:
        home = Path("/home/bundle")
        path = Path(os.path.normpath(home.joinpath(*parts)))
        assert path.is_relative_to(home) and path != home and "/".join(parts) == name
