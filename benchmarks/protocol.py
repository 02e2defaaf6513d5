"""The protocol, seen from the parent: write the job, start the measuring process, follow it, summarize its figures.

In: what to measure (`Subject`), a suite, options. Out: a `Measurement`. The work itself happens in `worker.py`, in a
fresh process.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from masters_edge.benchmarks import peers
from masters_edge.benchmarks.metrics import wilson_interval
from masters_edge.benchmarks.progress import OnProgress, Step
from masters_edge.benchmarks.results import (
    STAGES,
    Accuracy,
    Device,
    Latency,
    Measurement,
    Role,
    Stage,
    SuiteInfo,
    Training,
)
from masters_edge.benchmarks.suites import Suite
from masters_edge.data.records import Question
from masters_edge.errors import UserError


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
    """How it is measured. `threads` holds for the runtime and every library below it."""

    threads: int
    latency_questions: int = 200
    warm_up: int = 5


def measure_here(
    subject: Subject, suite: Suite, options: Options, on_progress: OnProgress | None = None, *, sha256: str
) -> Measurement:
    """Measure on this machine, in fresh processes.

    Raises:
        UserError: the subject can't be opened, a question's image can't be read, or the measuring process died.
    """
    started = _now()
    module = peers.module_of(subject.kind)
    with tempfile.TemporaryDirectory(prefix="masters-edge-bench-") as name:
        folder = Path(name)
        job = _write_job(folder, subject, suite, options)
        cold = []
        for number in range(1, module.COLD_STARTS):
            _say(on_progress, Step(subject.name, "start", number, module.COLD_STARTS))
            cold.append(_run(folder, {**job, "only_cold_start": True}, subject, on_progress)["cold_start_ms"])
        result = _run(folder, job, subject, on_progress)
    right, asked = result["right"], result["asked"]
    facts = result["facts"]
    if facts["parameters"] is None:  # graphs don't tell; the caller may know
        facts["parameters"] = subject.extra.get("parameters")
    low, high = wilson_interval(right, asked)
    stages = {stage: summarize(result["stages"][stage]) for stage in STAGES}
    return Measurement(
        name=subject.name,
        role=subject.role,
        kind=subject.kind,
        path=str(subject.path),
        sha256=sha256,
        device=Device(kind="local", **result["device"]),
        threads=options.threads,
        suite=SuiteInfo(name=suite.name, metric=suite.metric, sha256=suite.sha256),
        accuracy=Accuracy(asked=asked, right=right, per_cent=100 * right / asked, low=100 * low, high=100 * high),
        batched=result["batched"],
        latency=Latency(**stages, cold_start_ms=summarize([*cold, result["cold_start_ms"]])),
        latency_questions=job["latency_count"],
        peak_rss_mib=result["peak_rss_mib"],
        training=Training(steps=subject.extra.get("steps"), seconds=subject.extra.get("seconds")),
        started=started,
        ended=_now(),
        **facts,
    )


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


def _write_job(folder: Path, subject: Subject, suite: Suite, options: Options) -> dict[str, Any]:
    """job fields, and questions.jsonl with the latency sample (the same for every subject) first."""
    sample = {question.id for question in suite.take(min(options.latency_questions, len(suite.questions))).questions}
    ordered = sorted(suite.questions, key=lambda question: question.id not in sample)
    try:
        with (folder / "questions.jsonl").open("w", encoding="utf-8") as file:
            written: dict[str, Path] = {}
            for question in ordered:
                row = {
                    "id": question.id,
                    "text": question.text,
                    "image": str(_image_file(folder, question, written)),
                    "image_id": question.image_id,
                    "answers": question.accepted,
                }
                file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise UserError(f"the questions can't be written to {folder} ({error.strerror or error})") from None
    return {
        "module": peers.KINDS[subject.kind],
        "path": subject.place,
        "threads": options.threads,
        "metric": suite.metric,
        "questions": str(folder / "questions.jsonl"),
        "warm_up": min(options.warm_up, len(ordered)),
        "latency_count": len(sample),
        "only_cold_start": False,
    }


def _image_file(folder: Path, question: Question, written: dict[str, Path]) -> Path:
    if isinstance(question.image, Path):
        return question.image.resolve()
    if question.image_id not in written:
        file = folder / f"image-{len(written)}"
        file.write_bytes(question.image if isinstance(question.image, bytes) else question.image.read_bytes())
        written[question.image_id] = file
    return written[question.image_id]


def _run(folder: Path, job: dict[str, Any], subject: Subject, on_progress: OnProgress | None) -> dict[str, Any]:
    """One measuring process from start to end; returns its result event."""
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    threads = str(job["threads"])
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "masters_edge.benchmarks.worker", "job.json", "--started"]
    with (folder / "stderr.txt").open("w+b") as stderr:
        with subprocess.Popen(
            [*command, repr(time.time())], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=stderr
        ) as process:
            try:
                result = _follow(process, subject, on_progress)
                status = process.wait()
            except BaseException:  # interrupted, an error event, or the callback failed
                process.kill()
                raise
        if result is None or status != 0:
            raise UserError(f"measuring {subject.name} ({subject.place}) stopped: {_last_words(stderr, status)}")
    return result


def _follow(
    process: subprocess.Popen[bytes], subject: Subject, on_progress: OnProgress | None
) -> dict[str, Any] | None:
    result = None
    assert process.stdout is not None
    for line in process.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event["event"] == "error":
            raise UserError(f"measuring {subject.name} stopped: {event['message']}")
        if event["event"] == "progress":
            _say(on_progress, Step(subject.name, event["phase"], event["done"], event["total"], event["right"]))
        if event["event"] == "result":
            result = event
    return result


def _last_words(stderr: IO[bytes], status: int) -> str:
    """Why a process that gave no result ended: its last line on stderr, or the signal."""
    stderr.seek(0)
    lines = [line for line in stderr.read().decode("utf-8", "replace").splitlines() if line.strip()]
    if status < 0:
        name = str(-status)
        with contextlib.suppress(ValueError):
            name = signal.Signals(-status).name
        memory = ", most likely for want of memory" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{memory}"
    return lines[-1].strip() if lines else f"its process ended with status {status} and said nothing"


def _say(on_progress: OnProgress | None, step: Step) -> None:
    if on_progress is not None:
        on_progress(step)


def _now() -> datetime:
    return datetime.now(timezone.utc)
