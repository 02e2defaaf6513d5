"""What the measuring process does with a loaded subject, phase by phase, into raw/ (see `job.py`).

cold start -> facts -> warm-up -> latency (one question at a time; peak memory is read at its end) -> energy ->
cases -> sustained loop -> accuracy over all questions. A phase whose file is there is not done again; accuracy goes
on at the next question.
"""

import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from masters_edge.benchmarks import job as jobs
from masters_edge.common.errors import UserError
from masters_edge.data.records import Question, open_image

if TYPE_CHECKING:
    from masters_edge.benchmarks.events import Events
    from masters_edge.benchmarks.peers import Answerer

# As results.STAGES, which would bring pydantic along; a test holds them equal.
STAGES = ("preprocess_ms", "vision_ms", "prefill_ms", "ttft_ms", "decode_tokens_per_s", "total_ms")
CASE_LIMIT_S = 20.0  # a case of a slow student stops here, with fewer repeats
STRETCH_S, STRETCH_ANSWERS = 5.0, 10  # of the sustained loop; whichever takes longer
_PROGRESS_EVERY_S = 0.1


def run(folder: Path, job: dict[str, Any], began: float, emit: "Events", only_cold: bool) -> None:
    """The whole job, or its cold start alone; `began`: `time.time()` when this process was started."""
    questions = _questions(folder)
    chosen = jobs.read_json(folder / jobs.RAW / jobs.CHOICE)
    backend = chosen["backend"] if chosen is not None else job["backend"]
    answerer: Answerer = import_module(job["module"]).open_subject(_subject(folder, job), job["threads"], backend)
    first = next(questions)
    answerer.answer(open_image(first), first.text, exactly=job["exactly"])
    cold_start_ms = (time.time() - began) * 1000
    raw = folder / jobs.RAW
    if only_cold or len(jobs.read_rows(raw / jobs.COLD)) < job["cold_starts"]:
        jobs.append_rows(raw / jobs.COLD, [{"cold_start_ms": cold_start_ms}])
    if not only_cold:
        _Main(folder, job, answerer, [first, *questions], emit).run()


def choose(folder: Path, job: dict[str, Any]) -> None:
    """Which backend `auto` takes, before any start is measured: finding that out is no part of a start."""
    module = import_module(job["module"])
    backend, reason = module.choose(_subject(folder, job), job["threads"])
    jobs.write_json(folder / jobs.RAW / jobs.CHOICE, {"backend": backend, "reason": reason})


def _subject(folder: Path, job: dict[str, Any]) -> str:
    """Its place: an absolute path stays what it is, a hub id is no path."""
    place = folder / job["subject"]
    return str(place) if place.exists() else str(job["subject"])


class _Main:
    """The phases after the cold start."""

    def __init__(
        self, folder: Path, job: dict[str, Any], answerer: "Answerer", questions: list[Question], emit: "Events"
    ) -> None:
        self.folder, self.raw, self.job = folder, folder / jobs.RAW, job
        self.answerer, self.questions, self.emit = answerer, questions, emit
        self.timed = questions[: job["latency_count"]]

    def run(self) -> None:
        from masters_edge.benchmarks import machine

        facts = self.answerer.facts
        jobs.write_json(
            self.raw / jobs.FACTS,
            {
                "facts": {name: getattr(facts, name) for name in facts.__dataclass_fields__},
                "device": machine.describe(),
            },
        )
        todo = [name for name in (jobs.LATENCY, jobs.CASES, jobs.SUSTAINED) if not self._done(name)]
        if todo:
            self._warm_up()
        for name in todo:
            {jobs.LATENCY: self._latency, jobs.CASES: self._cases, jobs.SUSTAINED: self._sustained}[name]()
        if self.job["metric"] is not None:
            self._accuracy()
        jobs.write_json(self.raw / jobs.DONE, {"asked": len(self.questions)})

    def _done(self, name: str) -> bool:
        if name == jobs.CASES:
            return len(jobs.mend_rows(self.raw / name)) == len(self.job["cases"])
        if name == jobs.SUSTAINED and not self.job["sustain_s"]:
            return True
        return (self.raw / name).exists()

    def _answer(self, question: Question) -> Any:
        return self.answerer.answer(open_image(question), question.text, exactly=self.job["exactly"])

    def _warm_up(self) -> None:
        total = self.job["warm_up"]
        for number, question in enumerate(self.questions[:total], start=1):
            self._answer(question)
            self.emit.progress("warm-up", number, total)

    def _latency(self) -> None:
        from masters_edge.benchmarks import machine, meters

        (self.raw / jobs.ANSWERS).unlink(missing_ok=True)  # of a try that was ended before its figures were written
        watch = meters.Watch()
        stages: dict[str, list[float]] = {name: [] for name in STAGES}
        ticker = _Ticker(self.emit, "latency", len(self.questions))
        rows = []
        for question in self.timed:
            answer = self._answer(question)
            for name in STAGES:
                value = getattr(answer, name)
                if value is not None:
                    stages[name].append(float(value))
            rows.append(self._row(question, answer.text))
            ticker.tick(1, rows[-1]["score"])
        conditions = watch.end()
        peak_rss_mib = machine.peak_rss_mib()
        energy = self._energy(watch)
        if self.job["metric"] is not None:
            jobs.append_rows(self.raw / jobs.ANSWERS, rows)
        jobs.write_json(
            self.raw / jobs.LATENCY,
            {
                "stages": stages,
                "peak_rss_mib": peak_rss_mib,
                "conditions": conditions,
                "energy": energy,
                "unmeasured": watch.unmeasured,
            },
        )

    def _energy(self, watch: Any) -> dict[str, Any] | None:
        """The latency questions over again, until the device's meter has seen enough of them."""
        meter = watch.meter
        if meter is None:
            return None
        self.emit.progress("energy", 0, 1)
        idle_watts = meter.idle()
        answers = 0

        def work() -> None:
            nonlocal answers
            end = time.monotonic() + meter.seconds
            while answers == 0 or time.monotonic() < end:
                self._answer(self.timed[answers % len(self.timed)])
                answers += 1

        joules, seconds = meter.measure(work)
        self.emit.progress("energy", 1, 1)
        if joules is None:
            watch.unmeasured.append(f"energy: {meter.source} gave no reading")
            return None
        return {
            "source": meter.source,
            "joules_per_answer": joules / answers,
            "watts": joules / seconds,
            "idle_watts": idle_watts,
        }

    def _cases(self) -> None:
        wanted = self.job["cases"]
        for number in range(len(jobs.read_rows(self.raw / jobs.CASES)), len(wanted)):
            self.emit.progress("cases", number, len(wanted))
            jobs.append_rows(self.raw / jobs.CASES, [self._case(wanted[number])])
        self.emit.progress("cases", len(wanted), len(wanted))

    def _case(self, case: dict[str, Any]) -> dict[str, Any]:
        row = {key: case[key] for key in ("name", "image_width", "image_height", "prompt", "new_tokens")}
        with Image.open(self.folder / case["image"]) as file:
            image = file.convert("RGB")
        try:
            prompt_tokens, row["image_tokens"] = self.answerer.prompt_size(image, case["text"])
            row["prompt_tokens"] = prompt_tokens
            context, wanted = self.answerer.context, prompt_tokens + case["new_tokens"]
            if wanted > context:
                reason = f"prompt and answer take {wanted} tokens, the student has room for {context}"
                return row | {"stages": None, "skipped": reason}
            return row | {"stages": self._repeat(image, case), "skipped": None}
        except UserError as error:  # a picture or prompt that this student can't read
            return row | {"stages": None, "skipped": str(error)}

    def _repeat(self, image: Image.Image, case: dict[str, Any]) -> dict[str, list[float]]:
        def answer() -> Any:
            return self.answerer.answer(image, case["text"], exactly=case["new_tokens"])

        started = time.monotonic()
        answer()  # warm-up: the first of a new shape
        stages: dict[str, list[float]] = {name: [] for name in STAGES}
        for number in range(case["repeats"]):
            if number >= 2 and time.monotonic() - started > CASE_LIMIT_S:
                break
            found = answer()
            for name in STAGES:
                if (value := getattr(found, name)) is not None:
                    stages[name].append(float(value))
        return stages

    def _sustained(self) -> None:
        """The same few questions round and round; a stretch is whole rounds, so that stretches can be compared."""
        from masters_edge.benchmarks import meters

        sensors = meters.Sensors()
        around = [(open_image(question), question.text) for question in self.timed[:STRETCH_ANSWERS]]
        rows: list[dict[str, Any]] = []
        total_s = self.job["sustain_s"]
        started = stretch = now = time.monotonic()
        taken: list[float] = []
        last: list[float] = []
        while now - started < total_s:
            for image, text in around:
                taken.append(self.answerer.answer(image, text, exactly=self.job["exactly"]).total_ms)
            now = time.monotonic()
            self.emit.progress("sustained", round(min(now - started, total_s), 1), total_s)
            over = now - started >= total_s
            if over and rows and now - stretch < STRETCH_S / 2:  # too short to stand alone: part of the one before
                rows.pop()
                taken = last + taken
            if over or (now - stretch >= STRETCH_S and len(taken) >= STRETCH_ANSWERS):
                row = {"at_s": now - started, "answers": len(taken), "total_ms": _median(taken)}
                rows.append(row | {"celsius": sensors.celsius(), "mhz": sensors.mhz()})
                stretch, last, taken = now, taken, []
        jobs.write_rows(self.raw / jobs.SUSTAINED, rows)

    def _accuracy(self) -> None:
        answered = jobs.mend_rows(self.raw / jobs.ANSWERS)
        if [row["id"] for row in answered] != [question.id for question in self.questions[: len(answered)]]:
            raise UserError(f"{self.raw / jobs.ANSWERS} holds answers to other questions; remove {self.folder}")
        ticker = _Ticker(self.emit, "accuracy", len(self.questions), len(answered), sum(r["score"] for r in answered))
        if len(answered) == len(self.questions):
            ticker.tick(0, 0)
        size = max(1, self.answerer.batch_size)
        for chunk in _chunks(self.questions[len(answered) :], size):
            if size > 1:
                texts = self.answerer.answer_many([open_image(q) for q in chunk], [q.text for q in chunk])
            else:
                texts = [self._answer(question).text for question in chunk]
            rows = [self._row(question, text) for question, text in zip(chunk, texts)]
            if size > 1:
                rows = [row | {"batched": True} for row in rows]
            jobs.append_rows(self.raw / jobs.ANSWERS, rows)
            ticker.tick(len(rows), sum(row["score"] for row in rows))

    def _row(self, question: Question, text: str) -> dict[str, Any]:
        from masters_edge.scoring import metrics

        metric = None if self.job["metric"] is None else question.metric or self.job["metric"]
        score = metrics.best_score(metric, text, question.answers) if metric is not None else 0.0
        return {"id": question.id, "text": text, "score": score}


class _Ticker:
    """Progress events of counted questions, at most ten a second, and always the last."""

    def __init__(self, emit: "Events", phase: str, total: int, done: int = 0, right: float = 0.0) -> None:
        self.emit, self.phase, self.total, self.done, self.right, self.last = emit, phase, total, done, right, 0.0

    def tick(self, count: int, right: float) -> None:
        self.done += count
        self.right += right
        now = time.monotonic()
        if now - self.last >= _PROGRESS_EVERY_S or self.done == self.total:
            self.last = now
            self.emit.progress(self.phase, self.done, self.total, self.right)


def _questions(folder: Path) -> Iterator[Question]:
    for row in jobs.read_rows(folder / jobs.QUESTIONS):
        image, answers = folder / row["image"], tuple(row["answers"])
        yield Question(row["id"], row["text"], image, row["image_id"], answers=answers, metric=row.get("metric"))


def _chunks(questions: list[Question], size: int) -> Iterator[list[Question]]:
    for start in range(0, len(questions), size):
        yield questions[start : start + size]


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
