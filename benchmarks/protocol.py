"""The protocol, seen from the one who asks: write a job folder, have it done, make a `Measurement` of its files.

`prepare` writes what is asked (`masters_edge.benchmarks.job`), a device's `Place.run` has it answered by `worker.py`,
`assemble` reads the raw files back. Nothing here measures.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from masters_edge.benchmarks import cases, job
from masters_edge.benchmarks.progress import OnProgress, Step
from masters_edge.benchmarks.results import (
    STAGES,
    Accuracy,
    Case,
    Conditions,
    Device,
    Energy,
    Latency,
    Measurement,
    Moment,
    Role,
    SameAsPython,
    Stage,
    SuiteInfo,
    Sustained,
    Training,
)
from masters_edge.benchmarks.suites import Suite
from masters_edge.common import child
from masters_edge.common.errors import UserError
from masters_edge.common.plain import line
from masters_edge.data.images import some
from masters_edge.data.records import Question
from masters_edge.scoring.metrics import wilson_interval

LONGEST = 1000  # characters of a device's words


@dataclass(frozen=True)
class Subject:
    """What is measured: a bundle or a checkpoint (`kind`, see `peers.KINDS`), its place in the story (`role`), and,
    where known, `extra`: `steps` and `seconds` of its training, `parameters` of an exported one."""

    name: str
    role: Role
    path: Path | str
    kind: str = "bundle"
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """An absolute path, or the id of a checkpoint on the hub."""
        return str(Path(self.path).resolve()) if Path(self.path).exists() else str(self.path)


@dataclass(frozen=True)
class Options:
    """How it is measured. `threads` holds for the runtime and every library below it; `backend` is the bundles'.

    `cases`: picture sizes and prompt lengths beside the suite's questions. `sustain_s`: how long bundles answer
    without a pause, 0 for not at all.
    """

    threads: int
    latency_questions: int = 200
    warm_up: int = 5
    backend: str = "auto"
    cases: bool = True
    sustain_s: float = 0.0


def prepare(
    subject: Subject,
    peer: ModuleType,
    suite: Suite | None,
    options: Options,
    folder: Path,
    *,
    sha256: str,
    device: Device,
    versions: dict[str, str],
    candidates: dict[str, str],
) -> Path:
    """The job folder of this subject, written new, or as it lies where the same job was begun before.

    `peer` is the module that knows the subject there (`masters_edge.benchmarks.peers`). `device`, `versions` (of the
    libraries there) and `candidates` (the runtimes there that the backend may mean) are part of what makes a job the
    same: raw files of another subject, suite, machine or library are thrown away. Without a suite, made-up questions
    are asked for latency alone, and each is answered with the same number of tokens.
    Returns `folder`. Raises UserError where it can't be written.
    """
    asked = suite if suite is not None else cases.made_up(options.latency_questions)
    backend = options.backend if subject.kind != "checkpoint" else "auto"
    latency_count = min(options.latency_questions, len(asked.questions))
    wanted = {
        "schema_version": job.SCHEMA_VERSION,
        "module": peer.__name__,
        "subject": subject.place,
        "sha256": sha256,
        "suite": asked.sha256,
        "metric": suite.metric if suite is not None else None,
        "exactly": None if suite is not None else cases.NEW_TOKENS,
        "threads": options.threads,
        "backend": backend,
        "choose": backend == "auto" and peer.CHOOSES,
        "warm_up": min(options.warm_up, len(asked.questions)),
        "latency_count": latency_count,
        "cold_starts": peer.COLD_STARTS,
        "cases": [case.as_row() for case in cases.CASES] if options.cases else [],
        "sustain_s": options.sustain_s if subject.role == "exported" else 0,
        "device": device.model_dump(mode="json"),
        "versions": versions,
        "candidates": candidates,
    }
    before = job.read_json(folder / job.JOB) or {}
    if {key: before.get(key) for key in wanted} == wanted:
        return folder
    try:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / job.IMAGES).mkdir(parents=True)
        _write_questions(folder, asked, latency_count)
        if options.cases:
            cases.write_pictures(folder)
        job.write_json(folder / job.JOB, wanted | {"started": _now().isoformat()})  # last: the folder is whole
    except OSError as error:
        raise UserError(f"the questions can't be written to {folder} ({error.strerror or error})") from None
    return folder


def follow(lines: Iterable[bytes | str], subject: Subject, on_event: Callable[[dict[str, Any]], None]) -> bool:
    """Read a worker's output to its end; True where it said that it was done. Lines that are no events are skipped.

    Raises:
        UserError: the worker's error event, with the subject's name.
    """
    done = False
    for event in child.objects(lines):
        if event.get("event") == "error":
            raise UserError(f"measuring {subject.name} stopped: {line(str(event.get('message')), LONGEST)}")
        if event.get("event") == "progress":
            with suppress(ValidationError):
                on_event(Progress.model_validate(event).model_dump())
        done = done or event.get("event") == "done"
    return done


class Progress(BaseModel):
    """A worker's progress; a board may send anything in its place."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    event: Literal["progress"]
    phase: Annotated[str, AfterValidator(lambda text: line(text, 60))]
    done: Annotated[float, Field(ge=0, le=1e12)]
    total: Annotated[float, Field(ge=0, le=1e12)]
    right: Annotated[float, Field(ge=0, le=1e12)] | None = None


def as_steps(subject: Subject, on_progress: OnProgress | None) -> Callable[[dict[str, Any]], None]:
    """A worker's progress events as `Step`s of this subject."""

    def on_event(event: dict[str, Any]) -> None:
        if on_progress is not None:
            on_progress(Step(subject.name, event["phase"], event["done"], event["total"], event.get("right")))

    return on_event


def assemble(
    folder: Path,
    subject: Subject,
    suite: Suite | None,
    options: Options,
    device: Device,
    *,
    sha256: str,
    unanswered: Mapping[str, str] = MappingProxyType({}),
) -> Measurement:
    """What the raw files of a finished job say. `device` gives kind and address alone: which machine it is, the
    measuring process read from it. `unanswered` are questions of the suite that the job doesn't hold and why, by id:
    they count as asked, and as wrong.

    Raises:
        UserError: raw files are missing, don't fit together, or are none of a measuring process.
    """
    try:
        return _assembled(folder, subject, suite, options, device, sha256, unanswered)
    except UserError:
        raise
    except Exception as error:  # a board may have written anything into them
        what = str(error.errors()[0]["loc"]) if isinstance(error, ValidationError) else repr(error)
        raise UserError(
            f"what {device.address or device.kind} measured of {subject.name} can't be read ({line(what, LONGEST)}); "
            f"remove {folder} and measure again, on a device that you trust"
        ) from error


def _assembled(
    folder: Path,
    subject: Subject,
    suite: Suite | None,
    options: Options,
    device: Device,
    sha256: str,
    unanswered: Mapping[str, str],
) -> Measurement:
    raw = folder / job.RAW
    facts, latency = _told(job.read_json(raw / job.FACTS)), _told(job.read_json(raw / job.LATENCY))
    if job.read_json(raw / job.DONE) is None or facts is None or latency is None:
        raise UserError(f"measuring {subject.name} ended without its figures in {raw}; run the same command again")
    asked = job.read_json(folder / job.JOB)
    answers = job.read_rows(raw / job.ANSWERS)
    scores = [row["score"] for row in answers] + [0.0] * len(unanswered)
    if suite is not None and len(scores) != len(suite.questions):
        raise UserError(
            f"measuring {subject.name} left {len(answers)} answers to {len(suite.questions) - len(unanswered)} "
            f"questions in {raw}; "
            "remove that folder and measure again"
        )
    if suite is not None and [row["id"] for row in answers] != [r["id"] for r in job.read_rows(folder / job.QUESTIONS)]:
        raise ValueError("answers to other questions")
    if not all(isinstance(row["text"], str) and 0 <= row["score"] <= 1 for row in answers):
        raise ValueError("an answer without text or score")
    known = dict(facts["facts"])
    if known["parameters"] is None:  # graphs don't tell; the caller may know
        known["parameters"] = subject.extra.get("parameters")
    unmeasured = list(latency["unmeasured"])
    if unanswered:
        unmeasured.append(
            f"answers to {len(unanswered):,} questions, which count as wrong: {some([*unanswered.values()])}"
        )
    if options.sustain_s and not asked["sustain_s"]:
        unmeasured.append("the sustained loop is for exported students alone")
    choice, compared = _told(job.read_json(raw / job.CHOICE)), _told(job.read_json(raw / job.PYTHON))
    cold = [row["cold_start_ms"] for row in job.read_rows(raw / job.COLD)]
    return Measurement(
        name=subject.name,
        role=subject.role,
        kind=subject.kind,
        path=str(subject.path),
        sha256=sha256,
        device=Device(kind=device.kind, address=device.address, **facts["device"]),
        threads=options.threads,
        backend=asked["backend"],
        backend_reason=choice["reason"] if choice else None,
        candidates=asked["candidates"],
        suite=SuiteInfo(name=suite.name, metric=suite.scored_by, sha256=suite.sha256) if suite is not None else None,
        accuracy=accuracy(scores) if suite is not None else None,
        python_runtime=SameAsPython(**compared) if compared else None,
        batched=any(row.get("batched") for row in answers),
        latency=Latency(**_stages(latency["stages"]), cold_start_ms=summarize(cold)),
        latency_questions=asked["latency_count"],
        cases=tuple(_case(_told(row)) for row in job.read_rows(raw / job.CASES)),
        peak_rss_mib=latency["peak_rss_mib"],
        page_memory_mib=latency.get("page_memory_mib"),
        conditions=Conditions(**latency["conditions"] | (_told(job.read_json(raw / job.CONDITIONS)) or {})),
        energy=Energy(**latency["energy"]) if latency["energy"] else None,
        sustained=_sustained(job.read_rows(raw / job.SUSTAINED)),
        unmeasured=tuple(unmeasured),
        training=Training(steps=subject.extra.get("steps"), seconds=subject.extra.get("seconds")),
        started=datetime.fromisoformat(asked["started"]),
        ended=_now(),
        **known,
    )


def _told(value: Any) -> Any:
    """What a device wrote, every text of it as one line that isn't too long."""
    if isinstance(value, str):
        return line(value, LONGEST)
    if isinstance(value, dict):
        return {line(str(key), LONGEST): _told(one) for key, one in value.items()}
    return [_told(one) for one in value] if isinstance(value, list) else value


def accuracy(scores: Sequence[float]) -> Accuracy:
    """Mean score with its 95% interval."""
    right, asked = math.fsum(scores), len(scores)
    low, high = wilson_interval(right, asked)
    return Accuracy(asked=asked, right=right, per_cent=100 * right / asked, low=100 * low, high=100 * high)


def summarize(values: Sequence[float]) -> Stage | None:
    """Median, 90th percentile and interquartile range (linear interpolation); None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    quarter, three_quarters = _quantile(ordered, 0.25), _quantile(ordered, 0.75)
    return Stage(
        median=_quantile(ordered, 0.5), p90=_quantile(ordered, 0.9), spread=three_quarters - quarter, n=len(ordered)
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _stages(values: dict[str, list[float]]) -> dict[str, Stage | None]:
    return {stage: summarize(values.get(stage, [])) for stage in STAGES}


def _case(row: dict[str, Any]) -> Case:
    stages = row.pop("stages")
    return Case(latency=Latency(**_stages(stages)) if stages else None, **row)


def _sustained(rows: list[dict[str, Any]]) -> Sustained | None:
    if not rows:
        return None
    moments = tuple(Moment(**row) for row in rows)
    speed_left = moments[0].total_ms / moments[-1].total_ms if moments[-1].total_ms else 1.0
    return Sustained(seconds=moments[-1].at_s, moments=moments, speed_left=speed_left)


def _write_questions(folder: Path, suite: Suite, latency_count: int) -> None:
    """questions.jsonl with the latency sample (the same for every subject) first, and its pictures."""
    sample = {question.id for question in suite.take(latency_count).questions}
    ordered = sorted(suite.questions, key=lambda question: question.id not in sample)
    written: dict[str, str] = {}
    with (folder / job.QUESTIONS).open("w", encoding="utf-8") as file:
        for question in ordered:
            row = {
                "id": question.id,
                "text": question.text,
                "image": _image_file(folder, question, written),
                "image_id": question.image_id,
                "answers": question.accepted,
            } | ({} if question.metric is None else {"metric": question.metric})
            file.write(json.dumps(row) + "\n")


def _image_file(folder: Path, question: Question, written: dict[str, str]) -> str:
    """The picture's place in the job folder: a second name of the user's file where the disk allows, else a copy."""
    if question.image_id not in written:
        image = question.image
        known_as = re.sub(r"[^\w.-]", "_", image.name, flags=re.ASCII)[-80:] if isinstance(image, Path) else "embedded"
        name = f"{job.IMAGES}/{len(written)}-{known_as}"
        if isinstance(image, Path):
            try:
                os.link(image.resolve(), folder / name)
            except FileNotFoundError:
                raise UserError(
                    f"question {question.id}: there is no image file {image}; mend the path or leave the question out"
                ) from None
            except OSError:
                shutil.copyfile(image, folder / name)
        else:
            (folder / name).write_bytes(image if isinstance(image, bytes) else image.read_bytes())
        written[question.image_id] = name
    return written[question.image_id]


def _now() -> datetime:
    return datetime.now(timezone.utc)
