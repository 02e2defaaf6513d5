"""masters-edge as somebody gets it: the tracked files alone, and what is built from them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def tracked() -> list[str]:
    """Paths of the repository's files; skips where this is no clone."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("these files lie in no git repository, so nobody knows which of them belong to it")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def copy(folder: Path) -> Path:
    """The tracked files as they are now, without the repository around them."""
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def build_wheel(source: Path, out: Path, npm: bool = False) -> tuple[Path, str]:
    """The wheel that pip builds of a folder or an sdist, and what was said. Without `npm`, there is none."""
    env = os.environ | ({} if npm else {"PATH": str(out)})
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "-w", out, source]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    [wheel] = out.glob("masters_edge-*.whl")
    return wheel, done.stdout
