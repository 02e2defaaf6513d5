"""This masters-edge as a wheel, for a board: made of the installed package's own files, editable or not.

Nothing is built: a wheel of plain Python is a zip of the package's files and three text files beside them. The same
files give the same bytes, so that a board which has them keeps its environment. What a browser runs and the demo's
checkpoints stay here: a board serves no page and trains nothing.
"""

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

# An editable installation takes these from folders that don't lie in each other.
ROOMS = ("masters_edge", "masters_edge.benchmarks", "masters_edge.export")
# By the name in the wheel, as an installed room lies inside another.
_LEFT_OUT = (
    "masters_edge/benchmarks/page/assets/",  # transformers.js, 42 MB
    "masters_edge/benchmarks/page/notices/",  # which speak of it
    "masters_edge/export/optimum_register/",  # a wheel has it in Optimum's own namespace
    "masters_edge/recipes/",  # the demo's checkpoints, 11 MB
)
_THEN = (1980, 1, 1, 0, 0, 0)


def requirements() -> list[str]:
    """What the package itself needs, extras left out, as its metadata say."""
    return [line for line in metadata.requires("masters-edge") or [] if "extra ==" not in line]


def build(folder: Path) -> Path:
    """Write the wheel into `folder`; returns its path."""
    about = metadata.distribution("masters-edge")
    name = f"masters_edge-{about.version}"
    info = f"{name}.dist-info"
    content = dict(sorted(_files()))
    content[f"{info}/METADATA"] = _metadata(about).encode()
    content[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: masters-edge\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    if entries := about.read_text("entry_points.txt"):
        content[f"{info}/entry_points.txt"] = entries.encode()
    record = "".join(f"{path},sha256={_digest(data)},{len(data)}\n" for path, data in content.items())
    content[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for inside, data in content.items():
            entry = zipfile.ZipInfo(inside, _THEN)
            entry.external_attr = 0o644 << 16
            wheel.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return path


def _files() -> Iterator[tuple[str, bytes]]:
    for room in ROOMS:
        found = util.find_spec(room)
        for place in found.submodule_search_locations or [] if found else []:
            base = Path(place)
            for file in base.rglob("*"):
                parts = file.relative_to(base).parts
                inside = "/".join((*room.split("."), *parts))
                if inside.startswith(_LEFT_OUT) or not file.is_file() or file.suffix == ".pyc":
                    continue
                if not any(part.startswith(".") for part in parts):
                    yield inside, file.read_bytes()


def _metadata(about: metadata.Distribution) -> str:
    """What pip reads. Sorted: an editable installation may be found by another file, with another order."""
    kept = ("Metadata-Version", "Name", "Version", "Requires-Python", "Provides-Extra", "Requires-Dist")
    return "".join(f"{key}: {value}\n" for key in kept for value in sorted(about.metadata.get_all(key) or []))


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
