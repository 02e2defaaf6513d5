"""The wheel that boards get: the same bytes each time, installable, and with what setuptools would put into it."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from masters_edge.benchmarks.devices import _wheel

ROOT = Path(__file__).parents[2]
REBUILD = (
    "import sys, pathlib; from masters_edge.benchmarks.devices import _wheel; _wheel.build(pathlib.Path(sys.argv[1]))"
)


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


def test_leaves_out_what_a_browser_runs(tmp_path: Path) -> None:
    """Megabytes from npm, which may be there or not; the page's own code is a part of the package like any other."""
    with zipfile.ZipFile(_wheel.build(tmp_path)) as wheel:
        page = [name for name in wheel.namelist() if name.startswith("masters_edge/benchmarks/page/")]
    assert "masters_edge/benchmarks/page/assets.py" in page and "masters_edge/benchmarks/page/web/worker.js" in page
    assert not any(name.startswith("masters_edge/benchmarks/page/assets/") for name in page)


def test_knows_what_it_needs() -> None:
    needed = _wheel.requirements()
    assert any(line.startswith("onnxruntime") for line in needed)
    assert not any("torch" in line for line in needed)


@pytest.mark.slow
def test_holds_what_setuptools_would_put_into_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    skip = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__", "tmp", "tests", "docs")
    shutil.copytree(ROOT, source, ignore=skip)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(command, check=True)
    [theirs] = tmp_path.glob("*.whl")
    (tmp_path / "own").mkdir()
    ours = _wheel.build(tmp_path / "own")
    with zipfile.ZipFile(theirs) as a, zipfile.ZipFile(ours) as b:
        other = ("optimum/", "masters_edge/benchmarks/page/assets/")  # of the host alone
        wanted = {name for name in a.namelist() if ".dist-info/" not in name and not name.startswith(other)}
        assert wanted <= set(b.namelist())
        assert all(a.read(name) == b.read(name) for name in wanted)
