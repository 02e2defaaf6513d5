"""Measured rates, and the time that follows from them: no rate, no time.

`measure` runs the recipe's own models on a few of its questions: responses by student and teacher, their scores, and
some optimizer steps, all by the code that `distill` runs. What comes out can be saved and used for other recipes of the
same models on the same kind of machine.
"""

import copy
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from masters_edge.common.errors import UserError
from masters_edge.common.files import write_json
from masters_edge.data.records import Question
from masters_edge.plan.tokens import PhaseTokens
from masters_edge.recipe import Phase, Recipe, load, schedule

CHECKED = 200  # images opened for the time that opening all takes
STEPS = 12  # optimizer steps that are timed, the first of them left out
PARTS = ("generate_student", "generate_teacher", "score", "train", "evaluate")


@dataclass(frozen=True)
class Rates:
    """Tokens per second (questions for `evaluate`) of one process, and on what they were measured.

    `generate_student`, `generate_teacher`: response tokens; `score`: tokens of rows through student and teacher;
    `train`: tokens of the student's rows through a whole optimizer step, teacher and reference included; `evaluate`:
    held-out questions per second, answered greedily. `start_s`: seconds from the command to the first response, which
    don't shrink with more processes: imports, reading and checking the data, loading student and teacher.
    """

    device: str
    tokens_per_second: dict[str, float]
    measured_on: str = ""
    start_s: float = 0.0

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))


def read(path: Path) -> Rates:
    """Rates from a JSON file, as `Rates.save` writes it.

    Raises:
        UserError: no such file, or it doesn't hold a device and tokens per second.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        rates = Rates(
            str(values["device"]),
            dict(values["tokens_per_second"]),
            str(values.get("measured_on", "")),
            float(values.get("start_s", 0)),
        )
        known = {name: float(rates.tokens_per_second[name]) for name in PARTS if name in rates.tokens_per_second}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} holds no measured rates ({error}); expected JSON with device and tokens_per_second, as "
            "masters-edge plan --measure --rate-out writes it"
        ) from None
    if not known or any(rate <= 0 for rate in known.values()):
        raise UserError(f"{path}: tokens_per_second must hold numbers above 0 for some of {', '.join(PARTS)}")
    return replace(rates, tokens_per_second=known)


def seconds(rates: Rates, counted: PhaseTokens, response: float, held_out: int, processes: int) -> dict[str, float]:
    """Seconds by part of one phase; parts without a rate are left out. Processes are taken to share the work evenly."""
    work = {
        "generate_student": counted.sum("generated_student"),
        "generate_teacher": counted.sum("generated_teacher") + counted.labelled_by_teacher * response,
        "score": counted.sum("scored_student") + counted.sum("scored_teacher"),
        "train": counted.sum("trained_student"),
        "evaluate": counted.evaluations * held_out,
    }
    if counted.objective == "labels":
        work |= {"generate_student": 0, "generate_teacher": 0, "score": 0}
    known = rates.tokens_per_second
    return {name: tokens / known[name] / processes for name, tokens in work.items() if name in known}


@dataclass(frozen=True)
class Measured:
    """Rates, and what came up: mean tokens of a distinct response and of one as drawn, distinct ones of a question."""

    rates: Rates
    response: float
    drawn: float
    distinct: float


def measure(recipe_path: Path, overrides: Sequence[str]) -> Measured:
    """Run the recipe's models on a few questions, in a folder of its own that is removed.

    Raises:
        UserError: models or data can't be had here.
    """
    import torch

    recipe = load(recipe_path, overrides)
    before, threads = torch.get_num_threads(), recipe.train.threads
    torch.set_num_threads(threads if threads != "auto" else before)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _Calibration(recipe, recipe_path, Path(folder)).run()
    finally:
        torch.set_num_threads(before)


class _Calibration:
    """One measurement: the objects of a run, made as `distill` makes them."""

    def __init__(self, recipe: Recipe, recipe_path: Path, folder: Path) -> None:
        from masters_edge.common import processes
        from masters_edge.distill import read_questions
        from masters_edge.families.prompts import Prompter
        from masters_edge.plan.memory import AUTO_R_MAX
        from masters_edge.recipe import checkpoint
        from masters_edge.recipe.stages import five_stages
        from masters_edge.teacher.chain import TeacherChain

        self.recipe, self.folder, self.device = recipe, folder, processes.state().device
        self.source = checkpoint(recipe.student, recipe_path)
        started = time.perf_counter()
        self.questions = read_questions(recipe, recipe_path)
        self.start = _import_seconds() + time.perf_counter() - started + _check_seconds(self.questions)
        self.prompter = Prompter.load(self.source)
        # Which weights are masked doesn't change how long it takes, so norms and r_max need not be measured first.
        mask = recipe.mask.model_copy(update={"score": "magnitude"})
        self.teachers = TeacherChain([checkpoint(t, recipe_path) for t in recipe.teachers], mask, self.device)
        if self.teachers.masks is None:
            self.teachers.masks = [five_stages(AUTO_R_MAX)] * len(self.teachers)
        self.rates: dict[str, float] = {}
        self.response = self.drawn = float(recipe.responses.max_new_tokens)
        self.distinct = 1.0

    def run(self) -> Measured:
        from masters_edge.families import load_model

        phase = self.recipe.train.phases[0]
        pool = [q for q in self.questions.train if phase.objective != "labels" or q.answer is not None]
        if not pool:
            raise UserError("nothing can be measured: the recipe's data hold no question for its first phase")
        started = time.perf_counter()
        student = load_model(self.source).float().to(self.device)
        if phase.objective != "labels":
            self.teachers.at(0, schedule.stages(self.recipe, phase, self.teachers.masks)[0].ratio)
        self.start += time.perf_counter() - started
        visits = self._labels(phase, pool) if phase.objective == "labels" else self._responses(student, phase, pool)
        self._train(student, phase, visits)
        return Measured(
            Rates(_device(), self.rates, time.strftime("%Y-%m-%d"), self.start),
            self.response,
            self.drawn,
            self.distinct,
        )

    def _label_row(self, question: Question) -> dict[str, Any]:
        return {"token_ids": self.prompter.response_ids(question, question.answer or ""), "count": 1}

    def _labels(self, phase: Phase, pool: list[Question]) -> list[Any]:
        from masters_edge.training import Visit

        lengths = [len(self._label_row(q)["token_ids"]) for q in pool[:64]]
        self.response = statistics.fmean(lengths)
        need = STEPS * schedule.questions_per_step(self.recipe, phase)
        return [Visit(pool[i % len(pool)]) for i in range(need)]

    def _responses(self, student: Any, phase: Phase, pool: list[Question]) -> list[Any]:
        """Times answering and scoring; returns visits enough for the training steps, of the first stage."""
        from masters_edge.engines.transformers import Engine, Request, sampled
        from masters_edge.responses import scoring, store
        from masters_edge.training import Visit

        options = self.recipe.responses
        stage = schedule.stages(self.recipe, phase, self.teachers.masks)[0]
        of_teacher = self.teachers.prompter(stage.teacher)
        voices = {
            "student": scoring.Voice(student, self.prompter.family, self.prompter),
            "teacher": scoring.Voice(self.teachers.at(stage.teacher, stage.ratio), of_teacher.family, of_teacher),
        }
        per_step = schedule.questions_per_step(self.recipe, phase)
        counts = {"student": options.student, "teacher": options.teacher}
        batch = options.batch_size // max(1, min(count for count in counts.values() if count))
        asked = pool[: min(len(pool), max(batch, STEPS * per_step))]
        some = asked[:batch]  # one full batch of sequences
        limits = (options.max_new_tokens, options.batch_size)
        engines = {
            who: Engine(voice.model, voice.family, voice.prompter, *limits, voice.features)
            for who, voice in voices.items()
        }
        drawn: dict[str, list[tuple[tuple[int, ...], str]]] = {question.id: [] for question in asked}
        for source, count in counts.items():
            if not count:
                continue
            requests = [sampled(q, count, self.recipe.seed, source, stage.index) for q in asked]
            engines[source].answer(requests[: len(some)], options)  # warm-up
            voices[source].features.forget()
            started = time.perf_counter()
            answers = engines[source].answer(requests, options)
            spent = time.perf_counter() - started
            for request, responses in zip(requests, answers):
                drawn[request.question.id] += [(tuple(ids), source) for ids in responses]
            self.rates[f"generate_{source}"] = sum(len(ids) for responses in answers for ids in responses) / spent
        if self.questions.held_out:
            held_out = [Request(question) for question in self.questions.held_out]
            evaluated = Engine(student, self.prompter.family, self.prompter, *limits)
            started = time.perf_counter()
            greedy = evaluated.answer(held_out)
            self.rates["evaluate"] = len(greedy) / (time.perf_counter() - started)
        rows: list[store.Response] = []
        started = time.perf_counter()
        per_batch = max(1, options.batch_size // (options.student + options.teacher))
        for start in range(0, len(asked), per_batch):
            part = asked[start : start + per_batch]
            rows += scoring.rows(self.recipe, stage, voices["student"], voices["teacher"], part, drawn)
        spent = time.perf_counter() - started
        behind = 2 * sum(len(row.token_ids) - 1 for row in rows)
        prompts = sum(len(prompter(q)[0]) for q in asked for prompter in (self.prompter, of_teacher))
        self.rates["score"] = (behind + prompts) / spent
        self.response = statistics.fmean(len(row.token_ids) for row in rows)
        self.drawn = statistics.fmean(len(ids) for responses in drawn.values() for ids, _ in responses)
        self.distinct = len(rows) / len(asked)
        shard = self.folder / "calibration.parquet"
        store.write(shard, rows)
        return [Visit(asked[i % len(asked)], stage, shard) for i in range(STEPS * per_step)]

    def _train(self, student: Any, phase: Any, visits: list[Any]) -> None:
        """Times optimizer steps; the first, which allocates, is left out."""
        from transformers import TrainerCallback

        from masters_edge import training

        recipe = self.recipe
        reference = None
        if training.needs_reference(recipe, phase) and not recipe.train.lora:
            reference = copy.deepcopy(student).requires_grad_(False)
        student = training.trainable(student, recipe)
        teachers = self.teachers if training.needs_teacher(recipe, phase) else None
        if teachers is None:
            self.teachers.release()
        ends: list[float] = []

        class Clock(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                ends.append(time.perf_counter())

        steps = phase.model_copy(update={"steps": STEPS})
        train = recipe.train.model_copy(update={"trackers": [], "save_every": 10 * STEPS, "log_every": 10 * STEPS})
        settings = training.arguments(recipe.model_copy(update={"train": train}), steps, self.folder / "steps")
        settings.save_strategy = "no"  # type: ignore[assignment]
        collator = training.Collator(self.prompter, teachers, recipe.reward)
        dataset = training.Visits(visits, self._label_row)
        trainer = training.PhaseTrainer(
            phase=steps,
            recipe=recipe,
            family=self.prompter.family,
            prompter=self.prompter,
            teachers=teachers,
            reference=reference,
            model=student,
            args=settings,
            train_dataset=dataset,
            data_collator=collator,
            callbacks=[Clock()],
        )
        trainer.train()
        per_step = schedule.questions_per_step(recipe, phase)
        groups = [dataset[index] for index in range(per_step, STEPS * per_step)]
        tokens = sum(len(self.prompter(g.question)[0]) + sum(len(r["token_ids"]) - 1 for r in g.rows) for g in groups)
        spent = [after - before for before, after in zip(ends, ends[1:])]
        self.rates["train"] = tokens / len(spent) / statistics.median(spent)


def _import_seconds() -> float:
    """What a fresh process takes until it can work."""
    started = time.perf_counter()
    imports = "import masters_edge.responses.generate, masters_edge.training"
    subprocess.run([sys.executable, "-c", imports], check=True, capture_output=True)
    return time.perf_counter() - started


def _check_seconds(questions: Any) -> float:
    """Opening every image once, from how long some take."""
    from masters_edge import data

    every = {q.image_id: q for q in questions.train + questions.held_out + questions.unlabelled}
    some = list(every.values())[:CHECKED]
    started = time.perf_counter()
    data.verify_images(some, lambda done, total: None)
    return (time.perf_counter() - started) * len(every) / max(1, len(some))


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
