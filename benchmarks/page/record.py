"""What a page sends, written into a job's raw/ as `worker.py` would have left it there, and its answers scored.

Rows come once and in the worker's order: what is there already is acknowledged and dropped, so that a page may send a
thing again when it heard no answer; what comes too early is refused with the state of things.
"""

import threading
from pathlib import Path
from typing import Any

from masters_edge.benchmarks import job as jobs
from masters_edge.benchmarks import machine, protocol
from masters_edge.benchmarks.page import messages
from masters_edge.benchmarks.page.handout import Handout
from masters_edge.benchmarks.peers import in_browser
from masters_edge.benchmarks.results import Conditions, Device
from masters_edge.common.errors import UserError
from masters_edge.scoring import metrics
from masters_edge.serve.refusals import Refused

HASHES = "hashes.jsonl"  # in raw/: index, pixels_hash, inputs_hash of the first answers
NOT_TOLD = (
    "energy: a browser reads no meter",
    "peak memory: a browser doesn't tell it",
    "temperature and clock: a browser doesn't tell them",
)
ONE_THREAD = "one thread: the page was not cross-origin isolated, which takes HTTPS or localhost"
UNTOLD = "this browser doesn't tell it"
THREADS_SLEEP = "browsers don't tell it while WASM has several threads"
NO_HTTPS = "camera: by the file picker alone, since the page came over plain HTTP"


class Record:
    """The raw files of one job, as far as they are there."""

    def __init__(self, handout: Handout, device: Device, not_told: tuple[str, ...] = NOT_TOLD) -> None:
        self.handout, self.device, self.not_told = handout, device, not_told
        self.raw = handout.folder / jobs.RAW
        self._lock = threading.RLock()
        self.raw.mkdir(exist_ok=True)
        self._cold = len(jobs.mend_rows(self.raw / jobs.COLD))
        self._cases = len(jobs.mend_rows(self.raw / jobs.CASES))
        answers = jobs.mend_rows(self.raw / jobs.ANSWERS) if self._there(jobs.LATENCY) else []
        if [row["id"] for row in answers] != [question.id for question in handout.questions[: len(answers)]]:
            raise UserError(f"{self.raw / jobs.ANSWERS} holds answers to other questions; remove {handout.folder}")
        self._answers, self._right = len(answers), sum(row["score"] for row in answers)
        jobs.mend_rows(self.raw / HASHES)
        before = jobs.read_json(self.raw / jobs.CONDITIONS) or {}
        self._hidden_before, self._hidden = before.get("hidden_s") or 0.0, 0.0
        self._hidden_told = "hidden_s" in before

    @property
    def whole(self) -> bool:
        return self._there(jobs.DONE)

    @property
    def right(self) -> tuple[float, int]:
        return self._right, self._answers

    def done(self) -> messages.Done:
        with self._lock:
            return messages.Done(
                cold=self._cold,
                choice=jobs.read_json(self.raw / jobs.CHOICE),
                facts=self._there(jobs.FACTS),
                latency=self._there(jobs.LATENCY),
                cases=self._cases,
                sustained=not self.handout.asked["sustain_s"] or self._there(jobs.SUSTAINED),
                answers=self._answers,
            )

    def take(self, sent: Any) -> dict[str, Any]:
        """Write one upload (`messages.Raw`) where it is the next; what is there now. Raises Refused."""
        with self._lock:
            try:
                getattr(self, f"_take_{sent.kind}")(sent.index, sent.value)
            except OSError as error:
                raise Refused(507, f"the computer can't write to {jobs.RAW} ({error.strerror or error})") from None
            return {"done": self.done().model_dump(), "right": self._right, "asked": self._answers}

    def hear_hidden(self, hidden_s: float) -> None:
        """How long the page says that it was hidden so far; less than before: it was opened anew."""
        with self._lock:
            if hidden_s < self._hidden:
                self._hidden_before, self._hidden = self._hidden_before + self._hidden, 0.0
            if hidden_s > self._hidden or not self._hidden_told:
                self._hidden, self._hidden_told = hidden_s, True
                add_conditions(self.raw, hidden_s=self._hidden_before + self._hidden)

    def card(self) -> messages.Card:
        """What the page shows of a finished job."""
        facts, latency = jobs.read_json(self.raw / jobs.FACTS)["facts"], jobs.read_json(self.raw / jobs.LATENCY)
        scores = [row["score"] for row in jobs.read_rows(self.raw / jobs.ANSWERS)]
        found = protocol.accuracy(scores) if self.handout.scored else None
        same = jobs.read_json(self.raw / jobs.PYTHON)
        stages = {name: protocol.summarize(values) for name, values in latency["stages"].items()}
        cold = protocol.summarize([row["cold_start_ms"] for row in jobs.read_rows(self.raw / jobs.COLD)])
        return messages.Card(
            name=self.handout.name,
            scheme=facts["scheme"],
            target=facts["target"],
            runtime=facts["runtime"],
            threads=self.handout.asked["threads"],
            size_bytes=facts["size_bytes"],
            stages={
                name: messages.Median(median=stage.median, p90=stage.p90, n=stage.n)
                for name, stage in stages.items()
                if stage is not None
            },
            cold_start_ms=cold.median if cold else None,
            accuracy=messages.Right(**found.model_dump()) if found else None,
            same=messages.Same(**{key: same[key] for key in messages.Same.model_fields}) if same else None,
            hidden_s=(jobs.read_json(self.raw / jobs.CONDITIONS) or {}).get("hidden_s") or 0.0,
            notes=tuple(latency["unmeasured"]),
        )

    def _there(self, name: str) -> bool:
        return (self.raw / name).exists()

    def _early(self, sentence: str) -> Refused:
        return Refused(409, sentence, done=self.done().model_dump())

    def _next(self, index: int, there: int, most: int, what: str) -> bool:
        """Whether this row is to be written; False where it is there already. Raises Refused where one is missing."""
        if index < there:
            return False
        if index > there or index >= most:
            raise self._early(f"{what} {index} is not the next: there are {there} of {most}")
        return True

    def _after(self, what: str, **needed: bool) -> None:
        missing = [name for name, there in needed.items() if not there]
        if missing:
            raise self._early(f"{what} can't come before {missing[0].replace('_', ' ')}")

    @property
    def _all_cold(self) -> bool:
        return self._cold >= int(self.handout.asked["cold_starts"])

    @property
    def _all_cases(self) -> bool:
        return self._cases >= len(self.handout.asked["cases"])

    @property
    def _sample(self) -> int:
        """Answers of the latency questions, where answers are kept at all."""
        return int(self.handout.asked["latency_count"]) if self.handout.scored else 0

    def _of_backend(self, backend: str, asked: str) -> None:
        if asked not in ("auto", backend):
            raise Refused(422, f"the bundle was to run on {asked}, not on {backend}")

    def _one_choice(self) -> str:
        chosen = jobs.read_json(self.raw / jobs.CHOICE)
        return str(chosen["backend"]) if chosen else str(self.handout.asked["backend"])

    def _take_choice(self, index: int, value: messages.ChosenBackend) -> None:
        self._of_backend(value.backend, self.handout.asked["backend"])
        if self.handout.asked["choose"] and not self._there(jobs.CHOICE):
            jobs.write_json(self.raw / jobs.CHOICE, {"backend": value.backend, "reason": value.reason})

    def _take_cold(self, index: int, value: messages.Cold) -> None:
        if self._next(index, self._cold, self.handout.asked["cold_starts"], "cold start"):
            jobs.append_rows(self.raw / jobs.COLD, [{"cold_start_ms": value.cold_start_ms}])
            self._cold += 1

    def _take_facts(self, index: int, value: messages.Ran) -> None:
        """What ran, in the words of `peers.Facts`, and on which device."""
        if self._there(jobs.FACTS):
            return
        choice = self._there(jobs.CHOICE) or not self.handout.asked["choose"]
        self._after("facts", cold_starts=self._all_cold, choice=choice)
        self._of_backend(value.backend, self._one_choice())
        manifest, bundle = self.handout.manifest, self.handout.bundle
        told = {name: version for name, version in value.versions.items() if name in in_browser.PACKAGES}
        facts = {
            "target": manifest.target,
            "runtime": value.backend,
            "scheme": manifest.scheme,
            "size_bytes": sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()),
            "parameters": None,
            "weights": manifest.student.fingerprint,
            "versions": machine.versions("masters-edge") | told,
        }
        if value.backend == "wasm" and value.threads != self.handout.asked["threads"]:
            self.not_told += (
                f"threads: the runtime took {value.threads} of the {self.handout.asked['threads']} asked",
            )
        device = self.device.model_dump(mode="json", exclude={"kind", "address"})
        jobs.write_json(self.raw / jobs.FACTS, {"facts": facts, "device": device})

    def _take_latency(self, index: int, value: messages.Timed) -> None:
        if self._there(jobs.LATENCY):
            return
        self._after("latency", facts=self._there(jobs.FACTS))
        most = self.handout.asked["latency_count"]
        if len(value.stages.get("total_ms", [])) != most or any(len(row) > most for row in value.stages.values()):
            raise Refused(422, f"latency needs total_ms of all {most} questions, and no more of any stage")
        unmeasured = list(self.not_told)
        browser = self.device.browser
        if browser is not None and not browser.isolated:
            unmeasured.append(ONE_THREAD)
        if browser is not None and not browser.secure_context:
            unmeasured.append(NO_HTTPS)
        if value.page_memory_mib is None:
            several = self.handout.asked["threads"] > 1
            unmeasured.append(f"the page's memory: {THREADS_SLEEP if several else UNTOLD}")
        (self.raw / jobs.ANSWERS).unlink(missing_ok=True)  # of a try that was ended before its figures were written
        self._answers, self._right = 0, 0.0
        jobs.write_json(
            self.raw / jobs.LATENCY,
            {
                "stages": dict(value.stages),
                "peak_rss_mib": None,
                "page_memory_mib": value.page_memory_mib,
                "conditions": {"hidden_s": value.hidden_s},
                "energy": None,
                "unmeasured": unmeasured,
            },
        )

    def _take_case(self, index: int, value: messages.CaseRow) -> None:
        asked = self.handout.asked["cases"]
        if not self._next(index, self._cases, len(asked), "case"):
            return
        self._after("a case", latency=self._there(jobs.LATENCY))
        case = asked[index]
        if value.name != case["name"]:
            raise Refused(422, f"case {index} is {case['name']!r}, not another one")
        row = {key: case[key] for key in ("name", "image_width", "image_height", "prompt", "new_tokens")}
        jobs.append_rows(self.raw / jobs.CASES, [row | value.model_dump(exclude={"name"})])
        self._cases += 1

    def _take_sustained(self, index: int, value: list[messages.Stretch]) -> None:
        if not self.handout.asked["sustain_s"] or self._there(jobs.SUSTAINED):
            return
        self._after("the sustained loop", latency=self._there(jobs.LATENCY), cases=self._all_cases)
        rows = [row.model_dump() | {"celsius": None, "mhz": None} for row in value]
        jobs.write_rows(self.raw / jobs.SUSTAINED, rows)

    def _take_answers(self, index: int, value: list[messages.AnswerRow]) -> None:
        if not self.handout.scored:
            return
        self._after("answers", latency=self._there(jobs.LATENCY))
        there, most = self._answers, len(self.handout.questions)
        if index + len(value) <= there:
            return
        if index > there or index + len(value) > most:
            raise self._early(f"answers {index} to {index + len(value)} are not the next: there are {there} of {most}")
        if index + len(value) > self._sample:
            self._after("the other answers", cases=self._all_cases, sustained=self.done().sustained)
        new = value[there - index :]
        hashes = [
            {"index": number, "pixels_hash": row.pixels_hash, "inputs_hash": row.inputs_hash}
            for number, row in enumerate(new, start=there)
            if number < self.handout.compared
        ]
        if hashes:
            jobs.append_rows(self.raw / HASHES, hashes)
        rows = [self._scored(there + number, row.text) for number, row in enumerate(new)]
        jobs.append_rows(self.raw / jobs.ANSWERS, rows)
        self._answers += len(rows)
        self._right += sum(row["score"] for row in rows)

    def _scored(self, number: int, text: str) -> dict[str, Any]:
        """As the measuring process of another device would (`phases.py`)."""
        question = self.handout.questions[number]
        score = metrics.best_score(question.metric or self.handout.asked["metric"], text, question.answers)
        return {"id": question.id, "text": text, "score": score}

    def _take_done(self, index: int, value: messages.Finished) -> None:
        if self._there(jobs.DONE):
            return
        answered = self._answers >= (len(self.handout.questions) if self.handout.scored else 0)
        self._after(
            "the end",
            latency=self._there(jobs.LATENCY),
            cases=self._all_cases,
            sustained=self.done().sustained,
            answers=answered,
        )
        self.hear_hidden(value.hidden_s)
        jobs.write_json(self.raw / jobs.DONE, {"asked": len(self.handout.questions)})


def add_conditions(raw: Path, **fields: Any) -> None:
    """Put fields of `results.Conditions` beside those that raw/conditions.json has already."""
    Conditions(**fields)
    path = raw / jobs.CONDITIONS
    jobs.write_json(path, (jobs.read_json(path) or {}) | fields)
