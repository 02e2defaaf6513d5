"""The way from a student folder to a bundle, in the order it happens."""

import datetime
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import masters_edge
from masters_edge import bundle
from masters_edge.errors import UserError
from masters_edge.export import quantize as quantize_package
from masters_edge.export import registry
from masters_edge.export import targets as targets_package
from masters_edge.export.student import load, read_config

if TYPE_CHECKING:
    from PIL.Image import Image

# Files of `quantize/` that are no scheme.
_NOT_SCHEMES = {"record"}
_EXTRA = "the export needs packages that are not installed ({}); run: pip install 'masters-edge[onnx]'"


def targets() -> list[str]:
    """Formats a student can be exported to."""
    return registry.names(targets_package)


def schemes() -> list[str]:
    """Quantization schemes, `fp32` among them."""
    return [name for name in registry.names(quantize_package) if name not in _NOT_SCHEMES]


def export_student(
    student: Path,
    *,
    target: str,
    scheme: str,
    out: Path,
    samples: "list[tuple[Image, str]]",
    on_progress: Callable[[str, float], None] | None = None,
) -> bundle.Manifest:
    """Export a checkpoint folder to a bundle at `out`, proven against PyTorch on `samples` (image, question).

    `on_progress` hears what is being done and the share (0 to 1) of the whole. An older bundle at `out` is replaced
    at the very end. Raises UserError for an unknown target or scheme, a missing student, a family that can't be
    exported, a full disk, or parity past tolerance; then nothing is left behind.
    """
    student, out = Path(student), Path(out)
    say = on_progress or (lambda stage, share: None)
    for name, kind, known in ((target, "target", targets()), (scheme, "quantization scheme", schemes())):
        registry.check(name, kind, known)
    read_config(student)
    if not samples:
        raise UserError("the export needs at least one sample (image, question) to prove parity with; none was given")
    bundle.refuse_foreign(out)
    fingerprint = bundle.fingerprint(student)
    say("loading the student", 0.0)
    lowering, quantizing, graphs = _rooms(target, scheme)
    family = graphs.family(read_config(student)["model_type"])
    loaded = load(student)

    say("quantizing", 0.05)
    quantized = quantizing.quantize(loaded.model, graphs.linears(loaded))
    with bundle.building(out) as folder:
        parts = family.parts(loaded)
        say("exporting", 0.1)
        files = lowering.write(
            parts,
            _through_disk(quantized.tensors, folder),
            loaded,
            scheme,
            folder,
            lambda done: say("exporting", 0.1 + 0.5 * done / len(parts)),
        )
        from masters_edge.export import parity

        runner = _runner(folder, files, target, lowering)
        references = (family.Reference(loaded, image, text, parity.MAX_NEW_TOKENS) for image, text in samples)
        step = 0.3 / len(samples)
        found = parity.exact(references, samples, runner, lambda done: say("checking parity", 0.6 + step * done))
        shipped = found.figures.equal_answers
        del runner
        if lowering.ship(folder, files):
            say("checking what ships", 0.9)
            shipped = parity.equal_answers(found.answers, samples, _runner(folder, files, target, lowering))
        say("writing the manifest", 0.97)
        manifest = bundle.write(
            folder,
            bundle.Manifest(
                created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                masters_edge=masters_edge.__version__,
                model_type=loaded.model_type,
                target=target,
                scheme=scheme,
                graphs=files,
                student=bundle.Source(name=student.resolve().name, fingerprint=fingerprint),
                quantization=bundle.Quantization(
                    parts=quantized.parts, kept_float32=quantized.kept_float32, notes=quantized.notes
                ),
                parity=bundle.Parity(
                    samples=len(samples),
                    tolerance=parity.TOLERANCE,
                    exact=found.figures,
                    shipped=bundle.ShippedParity(equal_answers=shipped),
                ),
                versions=_versions(lowering.VERSIONS, bool(quantized.tensors)),
            ),
        )
    say("done", 1.0)
    return manifest


def _rooms(target: str, scheme: str) -> tuple[ModuleType, ModuleType, ModuleType]:
    """The target's, the scheme's and the graphs' modules, which need torch and its neighbours."""
    from masters_edge.quiet import hush

    hush()
    try:
        import torch  # noqa: F401

        hush()  # torch's import gives its loggers levels of its own
        from masters_edge.export import graphs

        return registry.load(targets_package, target), registry.load(quantize_package, scheme), graphs
    except ModuleNotFoundError as error:
        raise UserError(_EXTRA.format(error.name)) from None


def _through_disk(tensors: list, folder: Path) -> list:
    """The records as a target reads them: written to and read from their file, which does not ship."""
    from masters_edge.export.quantize import record

    if not tensors:
        return []
    path = folder / "quantized.safetensors"
    record.save(path, tensors)
    read = record.load(path)
    path.unlink()
    return read


def _runner(folder: Path, files: dict[str, str], target: str, lowering: ModuleType) -> Any:
    from masters_edge.runtime import Student

    return Student(folder, files, target, backend=lowering.BACKEND)


def _versions(libraries: tuple[str, ...], quantized: bool) -> dict[str, str]:
    names = ["torch", "transformers", *(["torchao"] if quantized else []), *libraries]
    return {name: importlib.metadata.version(name) for name in names}
