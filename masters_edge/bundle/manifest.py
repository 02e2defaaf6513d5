"""The bundle: a folder to copy to a device, and the manifest that says what is in it.

`export/` writes a bundle, `masters_edge.runtime` and `benchmarks/` read it. `manifest.json` names every file with its
size and sha256, where the student came from, how it was quantized and how its answers compared with PyTorch's.
Only the standard library and pydantic are imported here.
"""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from masters_edge.bundle import onnx_files
from masters_edge.bundle.origin import Origin
from masters_edge.common import inside
from masters_edge.common.errors import UserError
from masters_edge.common.files import whole_folder

MANIFEST = "manifest.json"
SCHEMA_VERSION = 3
READ = (2, 3)  # 2 lacks near ties and the errors of what ships
# What a file manager may drop into a folder that was copied; says nothing about the bundle, and nothing loads it.
_IGNORED = {".DS_Store", "Thumbs.db", "desktop.ini"}
_MOST_BYTES = 16 << 20  # of manifest.json


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", str_max_length=4000, allow_inf_nan=False)


class File(_Model):
    """One file of the bundle; `path` is relative, with forward slashes."""

    path: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0, le=1 << 50)


class Source(_Model):
    """The student this bundle was made of: its folder's name and the fingerprint of its weights."""

    name: str
    fingerprint: str


class Quantization(_Model):
    """What became of each part's weights: scheme by name, and in words; which layers stayed float32 and why.

    `method` says how the integers were chosen (rtn: round to nearest). `tied`: "shared" where token embedding and head
    are one weight, "split" where they were parted, "never" where the student has two.
    """

    schemes: dict[str, str]
    method: str
    tied: str
    parts: dict[str, str]
    kept_float32: list[str] = []
    notes: list[str] = []


class PartParity(_Model):
    """Largest relative error of one part over all samples: max |exported - PyTorch| / max |PyTorch|."""

    max_relative_error: float = Field(ge=0)


class NearTie(_Model):
    """An answer that parts from PyTorch's where PyTorch's own choice is as good as a tie.

    `sample` and `token` count from 1. `margin`: how far PyTorch's logits of its own token and of the other one are
    apart. `error`: the largest difference of logits measured on that sample; `margin` is at most twice that. Both are
    log-probabilities (nats) for a runtime that only answers whole.
    """

    sample: int = Field(ge=1)
    token: int = Field(ge=1)
    margin: float = Field(ge=0)
    error: float = Field(ge=0)

    def __str__(self) -> str:
        return (
            f"answer {self.sample} parts from PyTorch's at token {self.token}, a near tie: its two logits there are "
            f"{self.margin:.1e} apart, with errors of {self.error:.1e}"
        )


class ExactParity(_Model):
    """At exact arithmetic settings.

    `parts` are the graphs (vision_encoder, embed_tokens, decoder). A runtime that only answers whole has none, and
    `logprob_error` in their place: the largest difference of log-probabilities (nats) over the likeliest tokens at
    every place of the answers. `equal_answers` is the share (0 to 1) of greedy answers equal token by token; the others
    are in `near_ties`.
    """

    parts: dict[str, PartParity] = {}
    logprob_error: float | None = Field(default=None, ge=0)
    equal_answers: float = Field(ge=0, le=1)
    near_ties: list[NearTie] = []


class ShippedParity(_Model):
    """At the settings the bundle ships with (faster kernels).

    `feature_error`: largest relative error of the picture's features. `logprob_error`: root mean square error of the
    likeliest tokens' log-probabilities, as a share of how far PyTorch's own lie from their mean: 0 is PyTorch, 1 tells
    as much as all tokens being equally likely. None where what ships is what was proven exactly, or can't be asked.
    """

    equal_answers: float = Field(ge=0, le=1)
    feature_error: float | None = Field(default=None, ge=0)
    logprob_error: float | None = Field(default=None, ge=0)


class Parity(_Model):
    """The gate's figures: how many samples, the tolerance (relative; nats for `logprob_error`), what was found."""

    samples: int = Field(ge=1)
    tolerance: float
    exact: ExactParity
    shipped: ShippedParity
    died: str | None = Field(default=None, description="settings that the runtime died of on the machine that exported")


class Manifest(_Model):
    """The schema of `manifest.json`. `graphs` maps a part (vision_encoder, embed_tokens, decoder) to its file."""

    schema_version: int = SCHEMA_VERSION
    created: str = Field(description="UTC, ISO 8601")
    masters_edge: str = Field(description="version of masters-edge that wrote the bundle")
    model_type: str
    target: str
    scheme: str
    graphs: dict[str, str]
    student: Source
    origin: Origin | None = Field(default=None, description="teachers, licences, training and scores, as far as known")
    quantization: Quantization
    parity: Parity
    versions: dict[str, str] = Field(description="libraries the bundle was made with")
    notes: list[str] = Field(default=[], description="what a reader must know, such as what was not run")
    files: list[File] = []

    @property
    def bytes(self) -> int:
        """Size of all files named here, in bytes."""
        return sum(file.bytes for file in self.files)


def read(folder: Path) -> Manifest:
    """The bundle's manifest, schema checked, files not looked at (`check` does). Raises UserError."""
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        path.lstat()
    except OSError:
        what = "is no bundle: it has no manifest.json" if folder.is_dir() else "does not exist"
        raise UserError(f"{folder} {what}; give the folder that `masters-edge export` wrote") from None
    found = inside.read_json(folder, MANIFEST, _MOST_BYTES)
    version = found.get("schema_version") if isinstance(found, dict) else None
    if not isinstance(version, int) or version not in READ:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        advice = "upgrade masters-edge" if newer else "export the student again with this masters-edge"
        raise UserError(f"{path} has schema version {version}, this masters-edge reads {SCHEMA_VERSION}; {advice}")
    try:
        manifest = Manifest.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {where}: {first['msg']}; copy or export the bundle again") from None
    _check_names(folder, manifest)
    return manifest


def _check_names(folder: Path, manifest: Manifest) -> None:
    """Raise UserError where a file's name leads out of the folder or comes twice, or a graph isn't among the files."""
    known: set[str] = set()
    for file in manifest.files:
        inside.checked(folder, file.path)
        if file.path in known or file.path == MANIFEST:
            raise UserError(f"{folder / MANIFEST} lists {file.path} twice; {inside.AGAIN}")
        known.add(file.path)
    for part, graph in manifest.graphs.items():
        inside.checked(folder, graph)
        if graph not in known and not any(name.startswith(f"{graph}/") for name in known):
            raise UserError(f"{folder / MANIFEST}: the graph of {part}, {graph}, is none of its files; {inside.AGAIN}")


def check(folder: Path, on_bytes: Callable[[int], None] | None = None) -> Manifest:
    """Read the manifest and hash every file again; raises UserError naming the first one that differs.

    `on_bytes` hears how many bytes were hashed since it last heard.
    """
    folder = Path(folder)
    manifest = read(folder)
    for file in manifest.files:
        with inside.opened(folder, file.path) as stream:
            if os.fstat(stream.fileno()).st_size != file.bytes or _sha256(stream, on_bytes) != file.sha256:
                raise UserError(f"{folder}: the file {file.path} has changed since the bundle was made; {inside.AGAIN}")
    known = {file.path for file in manifest.files}
    packages = tuple(f"{graph}/" for graph in manifest.graphs.values())
    for name in inside.files(folder):
        if name not in known and name != MANIFEST and (not _is_ignored(name) or name.startswith(packages)):
            raise UserError(f"{folder}: the file {name} does not belong to the bundle; remove it, or {inside.AGAIN}")
    for graph in sorted(set(manifest.graphs.values())):
        for name in onnx_files.external(folder, graph):
            if name not in known:
                raise UserError(f"{folder}: {graph} reads {name}, which is none of the bundle's files; {inside.AGAIN}")
    return manifest


def write(folder: Path, manifest: Manifest) -> Manifest:
    """Hash every file under `folder`, put the list into the manifest and write it; returns what was written."""
    folder = Path(folder)
    files = []
    for name in sorted(inside.files(folder)):
        if name == MANIFEST or _is_ignored(name):
            continue
        path = folder.joinpath(*name.split("/"))
        files.append(File(path=name, sha256=sha256(path), bytes=path.stat().st_size))
    manifest = manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`, renamed to `out` when the block ends well, and removed when it doesn't.

    An older bundle at `out` is replaced in that last step; a folder that holds anything else is refused. A full disk
    becomes a UserError.
    """
    refuse_foreign(Path(out))
    try:
        with whole_folder(Path(out)) as temporary:
            yield temporary
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"disk is full while writing {out}; free some space and run the export again") from None
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(
                f"{Path(out).parent} can't be written to ({error.strerror}); choose another folder"
            ) from None
        raise


def refuse_foreign(out: Path) -> None:
    """Raise UserError where `out` exists and is neither an empty folder nor a bundle."""
    if out.is_dir():
        if any(out.iterdir()) and not (out / MANIFEST).is_file():
            raise UserError(f"{out} exists and is no bundle; choose another folder, or remove it first")
    elif out.exists() or out.is_symlink():
        raise UserError(f"{out} exists and is no folder; choose another name, or remove it first")


def fingerprint(folder: Path) -> str:
    """sha256 over names and contents of a checkpoint's safetensors files, in the order of their names."""
    folder = Path(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no *.safetensors file; give the folder of a saved checkpoint")
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}\0{sha256(file)}\n".encode())
    return total.hexdigest()


def sha256(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """Of one file, read in pieces of 1 MiB."""
    with open(path, "rb") as file:
        return _sha256(file, on_bytes)


def _sha256(file: BinaryIO, on_bytes: Callable[[int], None] | None) -> str:
    total = hashlib.sha256()
    while block := file.read(1 << 20):
        total.update(block)
        if on_bytes:
            on_bytes(len(block))
    return total.hexdigest()


def _is_ignored(name: str) -> bool:
    return name.rpartition("/")[2] in _IGNORED
