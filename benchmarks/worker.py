"""The measuring process: `python -m masters_edge.benchmarks.worker job.json --started SECONDS`.

A fresh process per subject, so that peak memory and cold start are the subject's own. It reads a job (see
`protocol.py`) and writes JSON lines to stdout: {"event": "progress" | "result" | "error", ...}. Nothing that the
subject itself doesn't need is imported before its first answer; stray prints of libraries go to stderr.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from masters_edge.benchmarks.peers import Answerer
from masters_edge.data.records import Question, open_image
from masters_edge.errors import UserError

# As results.STAGES, which would bring pydantic along; a test holds them equal.
STAGES = ("preprocess_ms", "vision_ms", "prefill_ms", "ttft_ms", "decode_tokens_per_s", "total_ms")
_PROGRESS_EVERY_S = 0.1

Emit = Callable[..., None]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="masters_edge.benchmarks.worker", description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("--started", type=float, default=None, help="time.time() when this process was started")
    options = parser.parse_args(arguments)
    began = time.time() if options.started is None else options.started
    with _own_stdout() as stream:

        def emit(event: str, **fields: Any) -> None:
            stream.write(json.dumps({"event": event, **fields}) + "\n")
            stream.flush()

        try:
            emit("result", **run(json.loads(options.job.read_text(encoding="utf-8")), began, emit))
        except UserError as error:
            emit("error", message=str(error))
            return 2
        except BrokenPipeError:  # the parent is gone, nobody reads on
            os._exit(1)
    return 0


def run(job: dict[str, Any], began: float, emit: Emit) -> dict[str, Any]:
    """Answer the job's questions; returns the fields of the result event, stage values unsummarized.

    The first `latency_count` questions are answered one at a time and timed; the rest likewise, or in batches where
    the subject can, untimed. Peak memory is read between the two, so that batches don't count.
    """
    questions = _questions(Path(job["questions"]))
    answerer = _open(job)
    first = next(questions)
    answerer.answer(open_image(first), first.text)
    cold_start_ms = (time.time() - began) * 1000
    if job["only_cold_start"]:
        return {"cold_start_ms": cold_start_ms}

    from masters_edge.benchmarks import machine, metrics

    def score(text: str, question: Question) -> float:
        return metrics.best_score(job["metric"], text, question.answers)

    asked = [first, *questions]
    ticker = _Ticker(emit, len(asked))
    for number, question in enumerate(asked[: job["warm_up"]], start=1):
        answerer.answer(open_image(question), question.text)
        emit("progress", phase="warm-up", done=number, total=job["warm_up"], right=None)

    stages: dict[str, list[float]] = {name: [] for name in STAGES}
    right = 0.0
    timed, rest = asked[: job["latency_count"]], asked[job["latency_count"] :]
    for question in timed:
        answer = answerer.answer(open_image(question), question.text)
        for name in STAGES:
            value = getattr(answer, name)
            if value is not None:
                stages[name].append(float(value))
        right += score(answer.text, question)
        ticker.tick("latency", 1, right)
    peak_rss_mib = machine.peak_rss_mib()
    for chunk in _chunks(rest, answerer.batch_size):
        if answerer.batch_size > 1:
            texts = answerer.answer_many([open_image(q) for q in chunk], [q.text for q in chunk])
        else:
            texts = [answerer.answer(open_image(q), q.text).text for q in chunk]
        right += sum(score(text, q) for text, q in zip(texts, chunk))
        ticker.tick("accuracy", len(chunk), right)

    facts = answerer.facts
    return {
        "cold_start_ms": cold_start_ms,
        "stages": stages,
        "peak_rss_mib": peak_rss_mib,
        "right": right,
        "asked": len(asked),
        "batched": bool(rest) and answerer.batch_size > 1,
        "facts": {name: getattr(facts, name) for name in facts.__dataclass_fields__},
        "device": machine.describe(),
    }


class _Ticker:
    """Progress events, at most ten a second, and always the last."""

    def __init__(self, emit: Emit, total: int) -> None:
        self.emit, self.total, self.done, self.last = emit, total, 0, 0.0

    def tick(self, phase: str, count: int, right: float) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.last >= _PROGRESS_EVERY_S or self.done == self.total:
            self.last = now
            self.emit("progress", phase=phase, done=self.done, total=self.total, right=right)


def _open(job: dict[str, Any]) -> Answerer:
    from importlib import import_module

    return import_module(job["module"]).open_subject(job["path"], job["threads"])


def _questions(file: Path) -> Iterator[Question]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield Question(row["id"], row["text"], Path(row["image"]), row["image_id"], answers=tuple(row["answers"]))


def _chunks(questions: list[Question], size: int) -> Iterator[list[Question]]:
    for start in range(0, len(questions), max(1, size)):
        yield questions[start : start + max(1, size)]


def _own_stdout() -> IO[str]:
    """The real stdout for events alone; whatever else prints to stdout lands on stderr."""
    sys.stdout.flush()
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


if __name__ == "__main__":
    sys.exit(main())
