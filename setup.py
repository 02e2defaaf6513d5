"""Package layout: `export/` installs as `masters_edge.export`, and so do `benchmarks/` and `recipes/`.

`export/optimum_register/` becomes a part of the namespace that Optimum's command line looks through for commands.
What `bench --device browser` serves comes from npm while masters-edge is built or installed, where there is npm.
Which files other than Python's go into a wheel is said in pyproject.toml, one pattern for each kind.
"""

import importlib.util
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOMS = {
    "masters_edge": "masters_edge",
    "masters_edge.export": "export",
    "masters_edge.benchmarks": "benchmarks",
    "masters_edge.recipes": "recipes",
}
COMMANDS = {"optimum.commands.register": "export/optimum_register"}
ASSETS = Path(__file__).resolve().parent / "benchmarks" / "page" / "assets.py"


class BuildWithPage(build_py):
    """The usual build, with transformers.js for the page fetched first. Without it everything else works."""

    def run(self) -> None:
        spec = importlib.util.spec_from_file_location("page_assets", ASSETS)
        assert spec is not None and spec.loader is not None
        assets = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(assets)
        try:
            assets.fetch()
        except assets.CannotFetch as error:
            print(f"Warning: {error}. Only `bench --device browser` needs it: {assets.missing()}", file=sys.stderr)
        super().run()


def packages() -> list[str]:
    """Each room and its subpackages, under the name it is imported by."""
    return [name for room, folder in ROOMS.items() for name in (room, *(f"{room}.{p}" for p in find_packages(folder)))]


setup(
    packages=[*packages(), *COMMANDS],
    package_dir=ROOMS | COMMANDS,
    cmdclass={"build_py": BuildWithPage},
)
