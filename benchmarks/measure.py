"""`bench`: several subjects on one suite and one device, into results.json, which is rewritten after each of them."""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from masters_edge.benchmarks import agreement, devices, job, peers, protocol, results
from masters_edge.benchmarks.devices import Place, Wanted
from masters_edge.benchmarks.progress import OnProgress
from masters_edge.benchmarks.protocol import Options, Subject
from masters_edge.benchmarks.results import Measurement, Results, Training
from masters_edge.benchmarks.suites import Suite
from masters_edge.common.errors import UserError
from masters_edge.common.files import writing
from masters_edge.data.images import some

__all__ = ["Settings", "Subject", "Unfinished", "bench", "seconds_of"]

JOBS, ANSWERS = ".jobs", "answers"
BUSY_CORES = 0.5  # of other programs' work; less is what any desktop does
HIDDEN_S = 0.5  # of a browser's page; less is a glance at something else

OnReused = Callable[[Subject, Measurement], None]
OnNote = Callable[[str], None]


class Unfinished(UserError):
    """Some subjects couldn't be measured; `results` holds all that could."""

    def __init__(self, message: str, results: Results) -> None:
        super().__init__(message)
        self.results = results


@dataclass(frozen=True)
class Settings:
    """How subjects are to be measured, the same for every one of them and for every device."""

    backend: str = "auto"
    """The runtime of bundles, by name; "auto" for the fastest."""
    questions: int | None = None
    """How many of the suite's questions to ask, drawn with a fixed seed (the same for every subject); None for all."""
    latency_questions: int = 200
    """How many of those give the latency figures, one at a time; the same for every subject."""
    cases: bool = True
    """Whether to time picture sizes and prompt lengths as well."""
    sustain_s: float = 0.0
    """How long each bundle answers without a pause, in seconds; 0 for not at all."""
    threads: int | None = None
    """Of the runtime and every library below it; None for the device's usable physical cores."""
    fresh: bool = False
    """Whether to measure again what was measured before."""
    lan: bool = False
    """Whether other machines of the network may open a browser's link (`devices.Wanted`, like the next two)."""
    https: bool = True
    """Whether they do so by HTTPS, with a certificate made here."""
    port: int | None = None
    """Where that link is; None for the usual port."""


@dataclass(frozen=True)
class _Round:
    """What the subjects of one `bench` share: the questions, how and where they are asked, who hears of it.

    `suite` is the whole of it, `readable` the questions with an image that can be decoded; `unanswered` are the others
    and why, by id.
    """

    suite: Suite | None
    readable: Suite | None
    unanswered: dict[str, str]
    options: Options
    place: Place
    out: Path
    fresh: bool
    on_progress: OnProgress | None
    on_reused: OnReused | None
    on_note: OnNote | None


def bench(
    subjects: Sequence[Subject],
    suite: Suite | None,
    settings: Settings = Settings(),
    *,
    device: str = "local",
    out: Path,
    on_progress: OnProgress | None = None,
    on_reused: OnReused | None = None,
    on_note: OnNote | None = None,
) -> Results:
    """Measure each subject and write `out` (results.json) after each, so that an interruption loses nothing.

    A subject is not measured again where `out` already holds it with the same files, questions, threads, backend,
    machine and library versions; `on_reused(subject, measurement)` is called instead. One that was interrupted goes on
    where it stopped. Measurements of other subjects in `out` stay. Every answer is kept in `answers/` beside `out`.

    Args:
        suite: None for latency alone, on made-up questions.
        device: "local", or the address of another one (`devices.KINDS`).
        on_note: hears what is left out and why, and when other programs disturbed, a sentence each.

    Raises:
        UserError: nothing to measure, a name used twice, a damaged `out`, a device that can't be reached.
        Unfinished: some subjects couldn't be measured; it names each, and the others are in `out`.
    """
    out = Path(out)
    _check(subjects, settings)
    kept = _measurable(subjects, device, on_note)
    suite = suite.take(settings.questions) if suite is not None else None
    readable, unanswered = suite.readable() if suite is not None else (None, {})
    if suite is not None and unanswered and on_note is not None:
        on_note(
            f"{suite.name}: {len(unanswered):,} of {len(suite.questions):,} questions can't be asked and count as "
            f"unanswered, which is wrong: {some([*unanswered.values()])}"
        )
    known = results.read(out) if out.exists() else Results()
    failures: dict[str, str] = {}
    needed = _packages(kept, device, settings.backend, failures)
    needed += _scoring_packages(suite) if suite is not None else []
    if len(failures) == len(kept):
        raise Unfinished(_told(failures, len(kept)), known)
    wanted = Wanted(needed, on_progress, on_note, settings.lan, settings.https, settings.port)
    with devices.connect(device, wanted) as place:
        options = Options(
            threads=_threads(settings.threads, place, device, on_note),
            latency_questions=settings.latency_questions,
            backend=settings.backend,
            cases=settings.cases,
            sustain_s=settings.sustain_s,
        )
        shared = _Round(
            suite, readable, unanswered, options, place, out, settings.fresh, on_progress, on_reused, on_note
        )
        if on_note is not None:
            for note in place.notes:
                on_note(note)
        for subject in kept:
            if subject.name in failures:
                continue
            try:
                known = _one(subject, _peer(device, subject), known, shared)
            except devices.Lost:
                raise
            except UserError as error:
                failures[subject.name] = str(error)
    if failures:
        raise Unfinished(_told(failures, len(kept)), known)
    return known


def seconds_of(duration: str) -> float:
    """Seconds of a duration as people write it: "30s", "10m", "1h", "90" (seconds)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h)?", duration.strip())
    if match is None:
        raise UserError(f"{duration!r} is no duration; write it as 30s, 10m or 1h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"]


def _one(subject: Subject, peer: ModuleType, known: Results, shared: _Round) -> Results:
    """`known` with this subject in it, written to `shared.out`."""
    suite, options, place, out, on_note = shared.suite, shared.options, shared.place, shared.out, shared.on_note
    sha256 = peer.fingerprint(subject.place)

    def keep(new: Measurement) -> Results:
        return results.update(out, lambda now: agreement.with_agreements(now.with_measurement(new), out.parent))

    old = None if shared.fresh else _find(known, subject, peer, sha256, shared)
    if old is not None:  # the figures stay; what the caller says about the subject may have changed
        training = Training(steps=subject.extra.get("steps"), seconds=subject.extra.get("seconds"))
        new = old.model_copy(update={"training": training, "role": subject.role, "path": str(subject.path)})
        known = keep(new)
        if shared.on_reused is not None:
            shared.on_reused(subject, new)
        return known
    folder = out.parent / JOBS / _job_name(subject, suite, options, place)
    with _alone(folder, subject):
        if shared.fresh:
            shutil.rmtree(folder, ignore_errors=True)
        protocol.prepare(
            subject,
            peer,
            shared.readable,
            options,
            folder,
            sha256=sha256,
            device=place.device,
            versions=place.versions(*peer.packages(subject.place, options.backend)),
            candidates=place.versions(*peer.runtimes(subject.place, options.backend)),
        )
        place.run(folder, subject, sha256, protocol.as_steps(subject, shared.on_progress))
        new = protocol.assemble(
            folder, subject, suite, options, place.device, sha256=sha256, unanswered=shared.unanswered
        )
        if suite is not None:
            new = new.model_copy(update={"answers": _keep_answers(folder, new, out.parent, shared.unanswered)})
        known = keep(new)
        shutil.rmtree(folder, ignore_errors=True)
    others = new.conditions.other_cores or 0
    if others >= BUSY_CORES and on_note is not None:
        on_note(
            f"{subject.name}: other programs took {others:.1f} cores while it was timed, so its figures may be too "
            "slow; end them and measure again with --fresh"
        )
    if (hidden_s := new.conditions.hidden_s or 0) >= HIDDEN_S and on_note is not None:
        on_note(
            f"{subject.name}: the page was out of sight for {hidden_s:.0f} s while it measured, so its figures may "
            "be too slow; keep it in front and measure again with --fresh"
        )
    return known


@contextlib.contextmanager
def _alone(folder: Path, subject: Subject) -> Iterator[None]:
    """Hold a job folder against other commands that measure the same; what is left empty goes.

    Raises:
        UserError: another command holds it, or it can't be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"another masters-edge command measures {subject.name}; wait for its end") from None
    try:
        yield
    finally:
        lock.release()
        with contextlib.suppress(OSError):
            if not folder.exists():
                Path(lock.lock_file).unlink()
                folder.parent.rmdir()


def _check(subjects: Sequence[Subject], settings: Settings) -> None:
    if not subjects:
        raise UserError("there is nothing to measure; name at least one bundle or checkpoint")
    names = [subject.name for subject in subjects]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"two subjects are called {twice[0]!r}; give each a name of its own")
    for subject in subjects:
        peers.module_of(subject.kind)
        if subject.role not in results.ROLES:
            raise UserError(
                f"{subject.name}: there is no role {subject.role!r}; use one of: {', '.join(results.ROLES)}"
            )
    if settings.latency_questions < 1 or (settings.threads is not None and settings.threads < 1):
        raise UserError("latency questions and threads must each be at least 1")
    if settings.sustain_s < 0:
        raise UserError(f"sustaining for {settings.sustain_s} seconds can't be; give 0 or more")


def _measurable(subjects: Sequence[Subject], device: str, on_note: OnNote | None) -> list[Subject]:
    """The subjects that this kind of device can measure; the others are said."""
    kept = [subject for subject in subjects if devices.peer_of(device, subject.kind) is not None]
    left_out = ", ".join(subject.name for subject in subjects if subject not in kept)
    if not kept:
        raise UserError(f"{device} measures bundles, and {left_out} is none; measure it with --device local")
    if left_out and on_note is not None:
        on_note(f"{left_out}: PyTorch is not measured on {device}, left out")
    return kept


def _peer(device: str, subject: Subject) -> ModuleType:
    found = devices.peer_of(device, subject.kind)
    assert found is not None, f"{subject.kind} on {device}"  # `_measurable` kept none of those
    return found


def _threads(asked: int | None, place: Place, device: str, on_note: OnNote | None) -> int:
    """As asked, else the device's usable cores; never more than can be had there, which is said."""
    if asked is None or place.most_threads is None or asked <= place.most_threads:
        return asked or place.usable_threads
    if on_note is not None:
        on_note(f"{device}: {asked} threads can't be had there, it measures with {place.most_threads}")
    return place.most_threads


def _scoring_packages(suite: Suite) -> list[str]:
    """What the suite's metrics need where answers are scored, beyond masters-edge itself (pip names)."""
    return ["pint"] if "quantity" in {question.metric or suite.metric for question in suite.questions} else []


def _packages(subjects: Sequence[Subject], device: str, backend: str, failures: dict[str, str]) -> list[str]:
    """What all of them run on, without repeats. A subject that can't be read, or not run there, goes to `failures`."""
    found: dict[str, None] = {}
    for subject in subjects:
        try:
            found |= dict.fromkeys(_peer(device, subject).packages(subject.place, backend))
        except UserError as error:
            failures[subject.name] = str(error)
    return list(found)


def _told(failures: dict[str, str], asked: int) -> str:
    if len(failures) == 1:
        return next(iter(failures.values()))
    several = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
    return f"{len(failures)} of {asked} can't be measured: {several}"


def _job_name(subject: Subject, suite: Suite | None, options: Options, place: Place) -> str:
    device, asked = place.device, suite.name if suite is not None else "no suite"
    where = (device.kind, device.address or "", device.name)
    return _file_name((subject.name, asked, *where, options.backend, f"{options.threads} threads"))


def _file_name(parts: Sequence[str]) -> str:
    """The parts as far as a file's name may hold them, and a hash that keeps similar ones apart."""
    plain = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", part).strip("_") for part in parts if part)
    return f"{plain[:80]}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:8]}"


def _keep_answers(folder: Path, measurement: Measurement, home: Path, unanswered: Mapping[str, str]) -> str:
    """Copy the answers beside results.json, those that nobody could give at the end; returns the file's name there."""
    name = f"{ANSWERS}/{_file_name(results.slot(measurement))}.jsonl"
    rows = [{"id": key, "text": "", "score": 0.0, "unanswered": reason} for key, reason in unanswered.items()]
    more = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
    results.write_atomically(home / name, (folder / job.RAW / job.ANSWERS).read_bytes() + more)
    return name


def _find(known: Results, subject: Subject, peer: ModuleType, sha256: str, shared: _Round) -> Measurement | None:
    """The measurement that measuring again would repeat, if there is one."""
    suite, readable, options, place = shared.suite, shared.readable, shared.options, shared.place
    asked = len(readable.questions) if readable is not None else options.latency_questions
    sustain_s = options.sustain_s if subject.role == "exported" else 0
    for old in known.measurements:
        if (
            old.name == subject.name
            and old.kind == subject.kind
            and old.sha256 == sha256
            and (old.suite.sha256 if old.suite else None) == (suite.sha256 if suite else None)
            and old.threads == options.threads
            and _same_backend(old, subject, peer, options, place)
            and old.latency_questions == min(options.latency_questions, asked)
            and (bool(old.cases) or not options.cases)
            and (old.sustained.seconds if old.sustained else 0) >= sustain_s
            and old.device == place.device
            and old.versions == place.versions(*old.versions)
        ):
            return old
    return None


def _same_backend(old: Measurement, subject: Subject, peer: ModuleType, options: Options, place: Place) -> bool:
    """Whether the runtime would be the same; with `auto`, only where it has the same ones to choose from."""
    if subject.kind == "checkpoint" or options.backend == old.runtime:
        return True
    runtimes = peer.runtimes(subject.place, options.backend)
    return old.backend == options.backend and old.candidates == place.versions(*runtimes)
