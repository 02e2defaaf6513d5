"""The wheel that boards get: the same bytes each time, and installable.

That it holds what setuptools would put into it, and no more, is said in tests/package/test_wheel.py.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from masters_edge.benchmarks.devices import _wheel

REBUILD = (
    "import sys, pathlib; from masters_edge.benchmarks.devices import _wheel; _wheel.build(pathlib.Path(sys.argv[1]))"
)


@pytest.mark.wide
def test_installs_alone_and_makes_itself_again(tmp_path: Path) -> None:
    """In a fresh environment without anything it depends on. From there it makes the same wheel: byte by byte."""
    for name in ("first", "again", "inside"):
        (tmp_path / name).mkdir()
    wheel = _wheel.build(tmp_path / "first")
    assert _wheel.build(tmp_path / "again").read_bytes() == wheel.read_bytes()
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True, cwd=tmp_path)
    subprocess.run([python, "-I", "-c", REBUILD, tmp_path / "inside"], check=True, cwd=tmp_path)
    assert (tmp_path / "inside" / wheel.name).read_bytes() == wheel.read_bytes()


def test_leaves_out_what_a_browser_runs_and_the_demo(tmp_path: Path) -> None:
    """Megabytes that no board reads; the page's own code is a part of the package like any other."""
    path = _wheel.build(tmp_path)
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
    page = "masters_edge/benchmarks/page"
    assert f"{page}/assets.py" in names and f"{page}/web/worker.js" in names
    assert not [
        name for name in names if name.startswith((f"{page}/assets/", f"{page}/notices/", "masters_edge/recipes/"))
    ]
    assert path.stat().st_size < 2e6


def test_knows_what_it_needs() -> None:
    needed = _wheel.requirements()
    assert any(line.startswith("onnxruntime") for line in needed)
    assert not any("torch" in line for line in needed)
