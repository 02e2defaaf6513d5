"""masters-edge as somebody gets it: the tracked files alone, and what is built from them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
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
        shutil.copyfile(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def clone(folder: Path) -> Path:
    """The last commit, as git gives it to anybody."""
    tracked()
    subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
    return folder


def build_wheel(source: Path, out: Path, env: Mapping[str, str] | None = None) -> tuple[Path, str]:
    """The wheel that pip builds of a folder or an sdist, and what it said; where `env` doesn't say, without npm."""
    # With what `dev` brings, nothing is asked of the network.
    alone = [] if find_spec("setuptools_scm") is None else ["--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", *alone, "-w", out, source]
    given = os.environ | (env or {"PATH": str(out)})
    done = subprocess.run(command, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    [wheel] = out.glob("masters_edge-*.whl")
    return wheel, done.stdout


def build_sdist(source: Path, out: Path) -> Path:
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, out], cwd=source, check=True, capture_output=True)
    [sdist] = out.glob("masters_edge-*.tar.gz")
    return sdist


@dataclass(frozen=True)
class Installed:
    """masters-edge from a wheel, in an environment of its own; what it depends on is the running environment's."""

    bin: Path

    def command(self, *arguments: str | Path) -> list[str | Path]:
        return [self.bin / "masters-edge", *arguments]

    def run(self, *arguments: str | Path, cwd: Path, status: int = 0) -> str:
        """What the command says."""
        done = subprocess.run(self.command(*arguments), cwd=cwd, env=CLEAN, capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def python(self, code: str, cwd: Path) -> str:
        command = [self.bin / "python", "-c", code]
        return subprocess.run(command, cwd=cwd, env=CLEAN, check=True, capture_output=True, text=True).stdout.strip()


# PYTHONPATH would lead back to the checkout.
CLEAN = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONUNBUFFERED": "1"}


def install(wheel: Path, folder: Path) -> Installed:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    installed = Installed(folder / ("Scripts" if sys.platform == "win32" else "bin"))
    command = [sys.executable, "-m", "pip", "--python", installed.bin / "python", "install", "-q", "--no-deps"]
    subprocess.run([*command, "--no-index", wheel], check=True)
    # Folders in a .pth file are searched last, and their own .pth files, as an editable installation's, aren't read.
    own = Path(installed.python("import sysconfig; print(sysconfig.get_path('purelib'))", folder))
    (own / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return installed
