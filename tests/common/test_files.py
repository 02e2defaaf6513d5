"""Whole or not at all: leftovers of the dead go, what somebody writes stays, what can't be written is a sentence."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from masters_edge.common import files, seals
from masters_edge.common.errors import UserError


@pytest.mark.parametrize("pid", ["1", "4194999"])
def test_leftovers_of_the_dead_don_t_stand_in_the_way(tmp_path: Path, pid: str) -> None:
    """In a container every command has the process id 1, the one that was killed and the one that lives."""
    (tmp_path / f".bundle.{pid}.part").mkdir()
    (tmp_path / f".results.json.{pid}.part").touch()
    with files.whole_folder(tmp_path / "bundle") as folder:
        (folder / "a").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    """One in a namespace of its own, where it can be had: no process id of one is known in the other."""
    code = f"from pathlib import Path; from masters_edge.common import files; files.sweep(Path({str(tmp_path)!r}))"
    alone = ["unshare", "-pf", "--mount-proc"]
    can = shutil.which("unshare") and subprocess.run([*alone, "true"], capture_output=True).returncode == 0
    with files.whole_folder(tmp_path / "bundle") as folder, files.whole_file(tmp_path / "results.json") as file:
        file.touch()
        subprocess.run([*(alone if can else []), sys.executable, "-c", code], check=True)
        assert folder.exists() and file.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "results.json"}


def test_what_a_killed_process_wrote_goes(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from masters_edge.common import files\n"
        f"with files.whole_folder(Path({str(tmp_path / 'bundle')!r})) as folder:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert any(path.suffix == ".part" for path in tmp_path.iterdir())
    files.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_takes_the_old_one_s_place_or_leaves_it(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with files.whole_folder(tmp_path / "bundle") as folder:
            (folder / "a").write_text(content)
    with pytest.raises(ZeroDivisionError), files.whole_folder(tmp_path / "bundle") as folder:
        (folder / "a").write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "bundle/a").read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("file", "file/x.json"),
        ("file", "folder"),
        ("file", "/proc/x/y.json"),
        ("folder", "file/x"),
        ("folder", "/proc/x/y"),
        ("folder", "x" * 300),
    ],
)
def test_what_can_t_be_written_is_one_sentence(tmp_path: Path, kind: str, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/content").touch()
    with pytest.raises(UserError, match=r"can't be written \(.*\); name another place, or mend this one$"):
        if kind == "file":
            files.write_text(tmp_path / place, "text")
        else:
            with files.whole_folder(tmp_path / place):
                pass


def chained(inner: Exception) -> Exception:
    try:
        try:
            raise inner
        except Exception as error:
            raise RuntimeError("can't save") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 512896 vs 512788"), True),
        (RuntimeError("[enforce fail at inline_container.cc:863] . PytorchStreamWriter failed writing file"), True),
        (RuntimeError("database or disk is full"), True),
        (chained(OSError(errno.ENOSPC, "No space left on device")), True),
        (RuntimeError("PytorchStreamReader failed reading zip archive: not a ZIP archive"), False),
        (OSError(errno.EACCES, "Permission denied"), False),
    ],
)
def test_a_full_disk_is_known_by_what_each_library_makes_of_it(error: Exception, full: bool) -> None:
    assert files.disk_full(error) == full


def test_json_without_what_no_reader_takes(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"loss": float("nan"), "all": [1.5, float("-inf")], "text": "NaN ü"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "NaN," not in text and "ü" in text
    assert json.loads(text) == {"loss": None, "all": [1.5, None], "text": "NaN ü"}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "5", '"text"', "{}", '{"schema_version": 2}', "\udcff"])
def test_a_damaged_record_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"a\.json .*; restore it$"):
        files.read_record(path, 1, "restore it")
    path.write_text('{"schema_version": 1, "steps": "many"}')
    with pytest.raises(UserError, match="steps can't be read in it; restore it"):
        files.read_record(path, 1, "restore it", {"steps": int})
    assert files.read_record(path, 1, "restore it")["steps"] == "many"


@pytest.mark.parametrize(
    ("do", "said"),
    [
        (lambda f: None, None),
        (lambda f: (f / "new.json").touch(), None),  # nobody wrote down what it should be
        (lambda f: flip(f / "weights"), "weights is not what was written"),
        (lambda f: (f / "weights").write_bytes(b"12"), "weights is not what was written"),
        (lambda f: (f / "weights").unlink(), "weights: No such file"),
        (lambda f: (f / "inner/state").unlink(), "inner/state: No such file"),
        (lambda f: (f / seals.MARK).write_text("{"), "its mark `complete` can't be read"),
        (lambda f: (f / seals.MARK).write_text("[1]"), "its mark `complete` can't be read"),
        (lambda f: (f / seals.MARK).write_text(""), None),  # an earlier masters-edge's
    ],
)
def test_a_seal_tells_damage(tmp_path: Path, do: Any, said: str | None) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/state").write_text("{}")
    (tmp_path / "weights").write_bytes(bytes(range(200)))
    seals.seal(tmp_path)
    do(tmp_path)
    found = seals.damage(tmp_path)
    assert found is None if said is None else found is not None and said in found


def flip(path: Path) -> None:
    """One bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
