"""`bench`: several subjects on one suite and one device, into results.json, which is rewritten after each of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from masters_edge.benchmarks import devices, machine, peers, results
from masters_edge.benchmarks.progress import OnProgress
from masters_edge.benchmarks.protocol import Options, Subject
from masters_edge.benchmarks.results import Device, Measurement, Results, Training
from masters_edge.benchmarks.suites import Suite
from masters_edge.errors import UserError

__all__ = ["Subject", "bench"]

OnReused = Callable[[Subject, Measurement], None]


def bench(
    subjects: Sequence[Subject],
    suite: Suite,
    *,
    device: str = "local",
    questions: int | None = None,
    latency_questions: int = 200,
    threads: int | None = None,
    out: Path,
    reuse: bool = True,
    on_progress: OnProgress | None = None,
    on_reused: OnReused | None = None,
) -> Results:
    """Measure each subject and write `out` (results.json) after each, so that an interruption loses nothing.

    A subject is not measured again where `out` already holds it with the same files, questions, threads, machine and
    library versions; `on_reused(subject, measurement)` is called instead. Measurements of other subjects in `out` stay.

    Args:
        questions: how many of the suite's questions to ask, drawn with a fixed seed (the same for every subject); None
            for all.
        latency_questions: how many of those give the latency figures, one at a time; the same for every subject.
        threads: None for the device's usable physical cores.

    Raises:
        UserError: nothing to measure, a name used twice, a damaged `out`, or a subject that can't be measured.
    """
    out = Path(out)
    _check(subjects, latency_questions, threads)
    place = devices.module_of(device)
    suite = suite.take(questions)
    options = Options(threads=threads or place.usable_threads(device), latency_questions=latency_questions)
    here: Device = place.describe(device)
    known = results.read(out) if out.exists() else Results()
    for subject in subjects:
        sha256 = peers.module_of(subject.kind).fingerprint(subject.place)
        old = _find(known, subject, sha256, suite, options, here) if reuse else None
        if old is None:
            new = place.measure(subject, suite, options, on_progress, sha256=sha256)
        else:  # the figures stay; what the caller says about the subject may have changed
            training = Training(steps=subject.extra.get("steps"), seconds=subject.extra.get("seconds"))
            new = old.model_copy(update={"training": training, "role": subject.role, "path": str(subject.path)})
        known = known.with_measurement(new)
        results.write(out, known)
        if old is not None and on_reused is not None:
            on_reused(subject, new)
    return known


def _check(subjects: Sequence[Subject], latency_questions: int, threads: int | None) -> None:
    if not subjects:
        raise UserError("there is nothing to measure; name at least one bundle or checkpoint")
    names = [subject.name for subject in subjects]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"two subjects are called {twice[0]!r}; give each a name of its own")
    for subject in subjects:
        if subject.role not in results.ROLES:
            raise UserError(
                f"{subject.name}: there is no role {subject.role!r}; use one of: {', '.join(results.ROLES)}"
            )
    if latency_questions < 1 or (threads is not None and threads < 1):
        raise UserError("latency questions and threads must each be at least 1")


def _find(
    known: Results, subject: Subject, sha256: str, suite: Suite, options: Options, here: Device
) -> Measurement | None:
    """The measurement that measuring again would repeat, if there is one."""
    for old in known.measurements:
        if (
            old.name == subject.name
            and old.kind == subject.kind
            and old.sha256 == sha256
            and old.suite.sha256 == suite.sha256
            and old.threads == options.threads
            and old.latency_questions == min(options.latency_questions, len(suite.questions))
            and old.device == here
            and old.versions == machine.versions(*old.versions)
        ):
            return old
    return None
