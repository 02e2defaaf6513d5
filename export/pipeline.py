"""The way from a student folder to a bundle, in the order it happens."""

import datetime
import gc
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from masters_edge.bundle import manifest as manifests
from masters_edge.bundle.inspection import refuse_pickles
from masters_edge.common import inside, registry, versions
from masters_edge.common.errors import UserError
from masters_edge.export import card, disk_space, targets
from masters_edge.export.student import LoadedStudent, load, read_config
from masters_edge.quantization import by_part
from masters_edge.quantization.by_part import QuantizationPlan
from masters_edge.run.origin import Origin, of

if TYPE_CHECKING:
    from PIL.Image import Image

    from masters_edge.export.quantize.weights import Weights
    from masters_edge.export.targets import Lowering
    from masters_edge.runtime.contained import Contained

Say = Callable[[str, float], None]


def target_names() -> list[str]:
    """Formats a student can be exported to."""
    return registry.names(targets)


def schemes() -> list[str]:
    """Quantization schemes and presets, `fp32` among them."""
    return by_part.names()


def export_student(
    student: Path,
    *,
    target: str,
    scheme: str | QuantizationPlan,
    out: Path,
    samples: "list[tuple[Image, str]]",
    method: str = "rtn",
    calibration: "Sequence[tuple[Image, str, str | None]] | None" = None,
    integers_file: Path | None = None,
    origin: Origin | None = None,
    on_progress: Say | None = None,
) -> manifests.Manifest:
    """Export a checkpoint folder to a bundle at `out`, proven against PyTorch on `samples` (image, question).

    `scheme` is the name of a scheme or preset, or a whole plan; `method` says how its integers are chosen.
    `calibration`: (image, question, answer or None) that methods with data look at, by default the samples.
    `integers_file` keeps the integers for the next target: made where there is none, else read.
    `origin`, for manifest and model card, is read off the folder where none is given.
    `on_progress` hears what is being done and the share (0 to 1) of the whole. An older bundle at `out` is replaced
    at the very end. Raises UserError for an unknown target, scheme or method, a missing student, a family or scheme
    that the target can't take, a full disk, or parity past tolerance; then nothing is left behind.
    """
    student, out = Path(student), Path(out)
    say = on_progress or (lambda stage, share: None)
    registry.check(target, "target", target_names())
    plan = scheme if isinstance(scheme, QuantizationPlan) else by_part.plan(scheme)
    read_config(student)
    if not samples:
        raise UserError(
            "the export needs samples, (image, question) pairs, to prove parity with, and none was given; give one or "
            "more"
        )
    manifests.refuse_foreign(out)
    fingerprint = manifests.fingerprint(student)
    origin = origin or of(student, None)
    say("loading the student", 0.0)
    module = _lowering(target)
    _fits(target, module, plan)
    from masters_edge.export import graphs
    from masters_edge.export.gate import finite, integers
    from masters_edge.export.quantize import quantize
    from masters_edge.export.targets import Lowering
    from masters_edge.runtime import fastest

    family = graphs.family(read_config(student)["model_type"])
    disk_space.check(out, student, plan, family.WEIGHTS)
    loaded = load(student)
    refusal = getattr(module, "unsupported", lambda _: None)(loaded)
    if refusal:
        raise UserError(f"{refusal}; export to another target, such as onnx (nothing was written)")
    finite.check_weights(loaded, "the student's weights")

    say("quantizing", 0.05)
    weights = quantize(loaded, plan, method, calibration or samples, integers_file)
    finite.check_weights(loaded, f"the weights as {plan.name}")
    with manifests.building(out) as folder, _contained(module, target) as contained:
        weights = _through_disk(weights, folder)
        say("exporting", 0.1)
        parts = family.parts(loaded)
        lowering = Lowering(
            loaded,
            weights,
            parts,
            folder,
            lambda done: say("exporting", 0.1 + 0.5 * min(1.0, done / len(parts))),
            contained,
        )
        files = module.write(lowering)
        gc.collect()  # exported programs refer to themselves, and weigh as much as the student
        parity, ran = _prove(module, family, lowering, files, target, samples, say)
        say("checking integers", 0.96)
        integers.check(module.integers(folder, files), weights.tensors)
        say("writing the manifest", 0.98)
        manifest = manifests.Manifest(
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            masters_edge=versions.own(),
            model_type=loaded.model_type,
            target=target,
            scheme=plan.name,
            graphs=files,
            student=manifests.Source(name=student.resolve().name, fingerprint=fingerprint),
            origin=origin,
            quantization=manifests.Quantization(
                schemes={part: scheme.name for part, scheme in plan.parts.items()},
                method=method,
                tied=weights.tied,
                parts=weights.parts,
                kept_float32=weights.kept_float32,
                notes=weights.notes,
            ),
            parity=parity,
            versions=_versions(module.VERSIONS, bool(weights.tensors)),
            notes=list(getattr(module, "NOTES", ())),
        )
        card.write(folder, manifest, origin, getattr(module, "RUNTIMES", {}).get(manifest.model_type, ()))
        refuse_pickles(folder, inside.files(folder))
        manifest = manifests.write(folder, manifest)
    if contained:
        fastest.proven(target, out, ran, parity.died, contained.threads)
    say("done", 1.0)
    return manifest


def _prove(
    module: ModuleType,
    family: ModuleType,
    lowering: "Lowering",
    files: dict[str, str],
    target: str,
    samples: "list[tuple[Image, str]]",
    say: Say,
) -> tuple[manifests.Parity, str]:
    """The gate: exact settings first, then those that ship; raises UserError that names part and layer.

    Also returns the backend's name, with the setting of it that what ships was proven with.
    """
    from masters_edge.export.gate import bisect, finite, parity
    from masters_edge.runtime import backends
    from masters_edge.runtime.contained import RuntimeDied

    def wrong_layer(part: str) -> str | None:
        """Words for the layer that makes `part` wrong on the first sample; None where the part has no layers."""
        if part not in family.LAYERS:
            return None

        def measure(student: LoadedStudent, folder: Path) -> float:
            short = replace(
                lowering, student=student, parts=family.parts(student), folder=folder, on_part=lambda _: None
            )
            runner = _runner(lowering, module.write(short), target, module, folder)
            return parity.errors(family.Reference(student, *samples[0], 1), runner)[part]

        say(f"looking for the layer that makes {part} wrong", 0.9)
        return bisect.first_wrong(lowering.student, family.LAYERS[part], measure, parity.TOLERANCE)

    def beyond(limit: float) -> Callable[[Any, str], str | None]:
        return lambda image, question: finite.first_beyond(lowering.student, image, question, limit)

    runner = _runner(lowering, files, target, module)
    samples = [(parity.as_read(runner, image, question), question) for image, question in samples]
    references = (family.Reference(lowering.student, image, text, parity.MAX_NEW_TOKENS) for image, text in samples)
    step = 0.3 / len(samples)
    hear = lambda done: say("checking parity", 0.6 + step * done)  # noqa: E731
    found = parity.exact(references, samples, runner, hear, wrong_layer, beyond(finite.LARGEST_FLOAT32))
    _close(runner)
    del runner, references
    gc.collect()
    shipped = manifests.ShippedParity(equal_answers=found.figures.equal_answers)
    ran, deaths = module.BACKEND, list[str]()
    changed = module.ship(lowering, files) or getattr(module, "SHIPS_FASTER", False)
    for ran in backends.settings(module.BACKEND) if changed else []:
        say("checking what ships", 0.9)
        try:
            runner = _runner(lowering, files, target, module, name=ran)
            shipped = parity.shipped(found.expected, samples, runner, beyond(finite.LARGEST_FLOAT16))
            break
        except RuntimeDied as error:
            deaths.append(str(error))
    else:
        if deaths:
            raise RuntimeDied("; ".join(deaths))
    died = f"on the machine that exported, {'; '.join(deaths)}; so it was proven as {ran}" if deaths else None
    figures = manifests.Parity(
        samples=len(samples), tolerance=found.tolerance, exact=found.figures, shipped=shipped, died=died
    )
    return figures, ran


def _lowering(target: str) -> ModuleType:
    """The target's module, with torch and what else it needs."""
    from masters_edge.common.quiet import hush

    hush()
    try:
        import torch  # noqa: F401

        hush()  # torch's import gives its loggers levels of its own
        return registry.load(targets, target)
    except ModuleNotFoundError as error:
        from masters_edge.common.extras import extra_with

        extra = extra_with(error.name or "") or "onnx"
        raise UserError(
            f"exporting to {target} needs packages that are not installed ({error.name}); "
            f"run: pip install 'masters-edge[{extra}]'"
        ) from None


def _fits(target: str, module: ModuleType, plan: QuantizationPlan) -> None:
    for part, scheme in plan.parts.items():
        if scheme.name not in module.SCHEMES:
            raise UserError(
                f"{target} can't hold {scheme.name} weights (asked for {part}); use: {', '.join(module.SCHEMES)}"
            )


def _through_disk(weights: "Weights", folder: Path) -> "Weights":
    """The weights as a target reads them: written to and read from their file, which does not ship."""
    from masters_edge.export import quantize

    path = folder / "quantized.safetensors"
    quantize.save(path, weights)
    read = quantize.load(path)
    path.unlink()
    return read


@contextmanager
def _contained(module: ModuleType, target: str) -> "Iterator[Contained | None]":
    """A process for the target's runtime; none where the target has a stand-in of its own for it."""
    from masters_edge.runtime.contained import Contained, RuntimeDied
    from masters_edge.runtime.student import free_threads

    if hasattr(module, "open_backend"):
        yield None
        return
    try:
        with Contained(module.BACKEND, target, free_threads()) as contained:
            yield contained
    except RuntimeDied as error:
        raise UserError(
            f"{error}; no bundle was written; take another target, or another version of the runtime"
        ) from None


def _runner(
    lowering: "Lowering",
    files: dict[str, str],
    target: str,
    module: ModuleType,
    folder: Path | None = None,
    name: str | None = None,
) -> Any:
    """The exported student on the runtime, in a process of its own, or on the target's stand-in for one that can't run
    here; at exact settings, or with those of a backend's `name`."""
    from masters_edge.runtime import Student
    from masters_edge.runtime.student import free_threads

    folder, exact = folder or lowering.folder, name is None
    if lowering.contained is None:
        backend = module.open_backend(folder, files, free_threads(), exact)
    else:
        backend = lowering.contained.open(folder, files, exact, name)
    return Student(folder, files, target, backend=backend, exact=exact)


def _close(runner: Any) -> None:
    """Give a runtime's memory and threads back where it has a way to."""
    getattr(runner.backend, "close", lambda: None)()


def _versions(libraries: tuple[str, ...], quantized: bool) -> dict[str, str]:
    names = ["torch", "transformers", *(["torchao"] if quantized else []), *libraries]
    return {name: importlib.metadata.version(name) for name in names}
