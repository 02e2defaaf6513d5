"""The model card of a bundle: README.md, as the Hugging Face hub shows it.

In: the bundle's folder with everything but card and manifest in it, what the manifest will say, where the student comes
from, and the runtimes that load the folder as it is. Out: `README.md`. Nothing in it depends on the clock, so equal
bundles have equal cards; what is not known is said to be so.
"""

import importlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from masters_edge.bundle.manifest import Manifest
from masters_edge.bundle.origin import Checkpoint, Origin
from masters_edge.runtime import backends

CARD = "README.md"
_SPDX = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # what the hub takes as a licence, such as apache-2.0
_METHODS = {"rtn": "rounding to nearest", "hqq": "HQQ", "gptq": "GPTQ"}
_TIED = {
    "shared": "Token embedding and head are one weight.",
    "split": "Token embedding and head were one weight in the student and are two here.",
}


def write(folder: Path, manifest: Manifest, origin: Origin, runtimes: Sequence[str] = ()) -> Path:
    """Write the card of the bundle being built in `folder`; `runtimes` are words (Markdown) on those that load it."""
    from huggingface_hub import ModelCard, ModelCardData

    sizes = _sizes(folder)
    sections = [
        f"# {origin.name} for {manifest.target} ({manifest.scheme})",
        f"A vision-language student ({manifest.model_type}) in files for {manifest.target}, "
        f"{sum(sizes.values()) / 1e6:.2f} MB together, exported by masters-edge {manifest.masters_edge}.",
        *_section("Run it", _run(manifest, runtimes)),
        *_section("How it was made", _made(manifest, origin)),
        *_section("Scores", _scores(origin)),
        *_section("Weights", _weights(manifest)),
        *_section("Compared with PyTorch", _parity(manifest)),
        *_section("Files", [_table(("file", "MB"), ((name, f"{n / 1e6:.3f}") for name, n in sizes.items()))]),
        *_section("Licences", _licences(origin)),
        *_section("What to know", [_list(manifest.notes)] if manifest.notes else []),
    ]
    about = ModelCardData(
        pipeline_tag="image-text-to-text",
        library_name="masters-edge",
        tags=["masters-edge", manifest.target, manifest.scheme, manifest.model_type],
        license=origin.student.licence if _SPDX.fullmatch(origin.student.licence) else None,
        base_model=origin.student.name if origin.student.hub else None,
    )
    path = folder / CARD
    ModelCard(f"---\n{about.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n").save(path)
    return path


def _section(title: str, blocks: Sequence[str]) -> list[str]:
    return [f"## {title}", *blocks] if blocks else []


def _run(manifest: Manifest, runtimes: Sequence[str]) -> list[str]:
    known = [importlib.import_module(f"{backends.__name__}.{name}") for name in backends.names()]
    blocks = []
    if any(manifest.target in backend.AVAILABLE_FOR for backend in known):
        package = next(backend.PACKAGE for backend in known if manifest.target in backend.AVAILABLE_FOR)
        command = 'masters-edge ask THIS_FOLDER picture.png "what is in this picture?"'
        blocks.append(f"```bash\npip install masters-edge {package}\n{command}\n```")
    if runtimes:
        blocks += ["Other runtimes that load this folder as it is:", _list(runtimes)]
    return blocks + ["`masters-edge inspect THIS_FOLDER` shows what is in it and checks every file."]


def _made(manifest: Manifest, origin: Origin) -> list[str]:
    rows = [("weights", f"sha256 {manifest.student.fingerprint}")]
    if origin.recipe is None:
        return [
            f"Exported from the checkpoint {origin.student.name}. How it was trained is not known here.",
            _table(("", ""), rows),
        ]
    teachers = " -> ".join(teacher.name for teacher in origin.teachers)
    rows = [
        ("student before", origin.student.name),
        ("teacher", teachers or "none: learned from labels"),
        ("recipe", f"{origin.recipe}, seed {origin.seed}"),
        ("steps", f"{origin.steps:,}"),
        *origin.training.items(),
        *rows,
    ]
    how = "Distilled by masters-edge." if teachers else "Trained by masters-edge."
    return [how, _table(("", ""), rows)]


def _scores(origin: Origin) -> list[str]:
    measure = "The exported files are measured by `masters-edge bench THIS_FOLDER`."
    if not origin.scores:
        return [f"No accuracy is known. {measure}"]
    rows = [
        (score.of, score.questions + (f" ({score.asked:,})" if score.asked else ""), f"{score.per_cent:.1f}")
        for score in origin.scores
    ]
    return [f"Accuracy in PyTorch, before the export. {measure}", _table(("model", "questions", "%"), rows)]


def _weights(manifest: Manifest) -> list[str]:
    found = manifest.quantization
    rows = [(part, name, found.parts.get(part, "")) for part, name in found.schemes.items()]
    blocks = [_table(("part", "scheme", "stored as"), rows)]
    if any(part.startswith("int") for part in found.schemes.values()):
        how = _METHODS.get(found.method, found.method)
        blocks.append(f"The integers were chosen by {how} with torchao; the same ones go to every target.")
    if found.tied in _TIED:
        blocks.append(_TIED[found.tied])
    if found.kept_float32:
        blocks += ["Layers that stayed float32:", _list(found.kept_float32)]
    return blocks + ([_list(found.notes)] if found.notes else [])


def _parity(manifest: Manifest) -> list[str]:
    found = manifest.parity
    rows = ((part, f"{figures.max_relative_error:.1e}") for part, figures in found.exact.parts.items())
    if found.exact.logprob_error is None:
        errors = _table(("part", f"largest relative error (at most {found.tolerance:.0e} passes)"), rows)
    else:
        errors = (
            f"Log-probabilities of the likeliest tokens differ by at most {found.exact.logprob_error:.1e} nat "
            f"(at most {found.tolerance:g} passes)."
        )
    return [
        f"{found.samples} pictures and questions were answered by PyTorch with the same weights and by these files.",
        errors,
        f"Equal greedy answers, token by token: {_share(found.exact.equal_answers)} at exact arithmetic, "
        f"{_share(found.shipped.equal_answers)} at the settings these files ship with.",
        *([_list([str(tie) for tie in found.exact.near_ties])] if found.exact.near_ties else []),
        *([f"{found.died[0].upper()}{found.died[1:]}."] if found.died else []),
    ]


def _licences(origin: Origin) -> list[str]:
    def line(role: str, checkpoint: Checkpoint) -> str:
        return f"{role} {checkpoint.name}: {checkpoint.licence}"

    return [
        "As the checkpoints state them; what binds a teacher may bind its student.",
        _list([line("student", origin.student), *(line("teacher", teacher) for teacher in origin.teachers)]),
    ]


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file but card and manifest."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: found[name].stat().st_size for name in sorted(found) if name not in (CARD, "manifest.json")}


def _share(value: float) -> str:
    """100% only where it is all of them."""
    return f"{int(1000 * value) / 10:g}%"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [tuple(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
