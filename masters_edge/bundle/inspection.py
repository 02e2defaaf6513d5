"""`inspect`: what a bundle's manifest says, and whether the files are still what it says.

In: a bundle's folder. Out: tables on the screen, or the manifest as JSON. Every file is hashed again, and none may be a
pickle, since opening one can run any program. No torch.
"""

import json
import pickletools
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

from rich.table import Table
from rich.text import Text

from masters_edge.bundle import manifest as manifests
from masters_edge.bundle.manifest import Manifest
from masters_edge.common import inside
from masters_edge.common.display import console, progress, say
from masters_edge.common.errors import UserError

# Text, never str, in cells: no markup is read in what comes from a file.
_SLOW = 64 << 20  # bytes whose hashing takes long enough to show
_ENOUGH = 256  # valid operations in a row that no other format has by chance


def inspect(folder: Path, as_json: bool = False) -> None:
    """Show the manifest, then check every file.

    Raises UserError where a file is missing, changed, not of the bundle, or a pickle. With `as_json` the files are
    checked first, so that nothing is printed for a bundle that isn't whole.
    """
    folder = Path(folder)
    manifest = manifests.read(folder)
    if as_json:
        check(folder, manifest)
        print(json.dumps(manifest.model_dump(mode="json"), indent=2))  # in ASCII: nothing that a terminal obeys
        return
    for table in tables(manifest):
        console.print(table)
    check(folder, manifest)
    say("every file is as it was written")


def check(folder: Path, manifest: Manifest) -> None:
    """Hash every file again, with a bar where that takes a while; raises UserError for the first that is wrong."""
    refuse_pickles(folder, (file.path for file in manifest.files))
    if manifest.bytes < _SLOW:
        manifests.check(folder)
        return
    with progress("checking files, MB", round(manifest.bytes / 1e6)) as bar:
        manifests.check(folder, on_bytes=lambda count: bar(count / 1e6))


def refuse_pickles(folder: Path, files: Iterable[str]) -> None:
    """Raise UserError for the first of the bundle's files that is a pickle, whatever its name."""
    for name in files:
        if is_pickle(inside.place(folder, name)):
            raise UserError(
                f"{folder}: the file {name} is a pickle, which can run programs when it is opened; don't use the bundle"
            )


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle (protocol 2 or later) or a zip with one in it, as torch.save writes them.

    Looks at the content: raw weights are called `.bin` too, and may begin with any two bytes.
    """
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start == b"PK\x03\x04":
            try:
                with zipfile.ZipFile(file) as archive:
                    return any(name.endswith(".pkl") for name in archive.namelist())
            except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error):
                return False
        if start[:1] != b"\x80" or start[1:2] not in (b"\x02", b"\x03", b"\x04", b"\x05"):
            return False
        try:
            for count, (operation, _, _) in enumerate(pickletools.genops(file)):
                if operation.name == "STOP" or count == _ENOUGH:
                    return True
        except (ValueError, OverflowError):  # no operation, or an argument that is none
            return False
    return False


def tables(manifest: Manifest) -> list[Table]:
    """What it is, its parts, its files."""
    return [_facts(manifest), _parts(manifest), _files(manifest)]


def _facts(manifest: Manifest) -> Table:
    parity, origin, logprobs = manifest.parity, manifest.origin, manifest.parity.exact.logprob_error
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    rows = [
        ("what", f"{manifest.model_type} for {manifest.target}, {manifest.scheme}"),
        ("created", f"{manifest.created} by masters-edge {manifest.masters_edge}"),
        ("student", f"{manifest.student.name}, sha256 {manifest.student.fingerprint}"),
    ]
    if origin:
        rows.append(("made of", f"{origin.student.name} (licence: {origin.student.licence})"))
        rows += [("teacher", f"{teacher.name} (licence: {teacher.licence})") for teacher in origin.teachers]
        if origin.recipe:
            rows.append(("recipe", f"{origin.recipe}, seed {origin.seed}, {origin.steps:,} steps"))
        rows += [("training", f"{topic}: {words}") for topic, words in origin.training.items()]
        rows += [("score", f"{score.of}: {score.per_cent:.1f}% ({score.questions})") for score in origin.scores]
    rows += [
        ("size", f"{manifest.bytes / 1e6:.2f} MB in {len(manifest.files)} files"),
        (
            "parity",
            f"{100 * parity.exact.equal_answers:g}% of {parity.samples} answers equal to PyTorch's at exact "
            f"arithmetic, {100 * parity.shipped.equal_answers:g}% as it ships"
            + (f"; log-probabilities within {logprobs:.1e} nat" if logprobs is not None else ""),
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
        ("method", manifest.quantization.method),
    ]
    rows += [("near tie", str(tie)) for tie in parity.exact.near_ties]
    rows += [("crash", parity.died)] if parity.died else []
    rows += [("float32", layer) for layer in manifest.quantization.kept_float32]
    rows += [("note", note) for note in [*manifest.quantization.notes, *manifest.notes]]
    for name, words in rows:
        table.add_row(name, Text(words))
    return table


def _parts(manifest: Manifest) -> Table:
    """Schemes by part, then the parity of the parts that were compared."""
    table = Table("part", "scheme", "stored as", "largest relative error")
    quantization, errors = manifest.quantization, manifest.parity.exact.parts
    for part, scheme in quantization.schemes.items():
        table.add_row(Text(part), Text(scheme), Text(quantization.parts.get(part, "")), "")
    table.add_section()
    for part, figures in errors.items():
        table.add_row(Text(part), "", Text(manifest.graphs.get(part, "")), f"{figures.max_relative_error:.1e}")
    return table


def _files(manifest: Manifest) -> Table:
    table = Table("file", "sha256")
    table.add_column("MB", justify="right")
    for file in manifest.files:
        table.add_row(Text(file.path), file.sha256[:12], f"{file.bytes / 1e6:.3f}")
    return table
