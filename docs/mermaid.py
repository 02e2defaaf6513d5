"""Mermaid's script for the site's diagrams: taken from npm once, pinned by version and hash, served from the site.

    python docs/mermaid.py      # what `make docs` runs first

Writes build/mermaid/mermaid.min.js. Where npm or the network is missing it says so and ends with 0 all the same: the
site is built without it, and a diagram stands there as its source.
"""

import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from masters_edge.benchmarks.page import assets

VERSION = "12.3.0"
INTEGRITY = "sha512-4113TdXeLAsMruJ79OpFL5O8+LTFXhQqZ260rF3tgUmiNAtRm4Uume04I+65PRN6yZ69J4f8rVYWW8zRk65UYw=="
FOLDER = Path(__file__).resolve().parents[1] / "build" / "mermaid"
FILES = {"mermaid.min.js": "package/dist/mermaid.min.js", "mermaid.LICENSE.txt": "package/LICENSE"}


def fetch(folder: Path = FOLDER) -> None:
    """Have the files in `folder`; nothing is done where this version's are. Raises assets.CannotFetch."""
    pinned = folder / "version.txt"
    if pinned.is_file() and pinned.read_text(encoding="utf-8") == INTEGRITY:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise assets.CannotFetch("npm isn't installed")
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as place,
        tarfile.open(assets.tarball(npm, "mermaid", VERSION, INTEGRITY, Path(place))) as archive,
    ):
        for name, inside in FILES.items():
            source = archive.extractfile(inside)
            assert source is not None
            (folder / name).write_bytes(source.read())
    pinned.write_text(INTEGRITY, encoding="utf-8")


if __name__ == "__main__":
    try:
        fetch()
    except assets.CannotFetch as error:
        print(f"Diagrams stay text: Mermaid couldn't be fetched ({error})", file=sys.stderr)
