"""Measured rates, and the time that follows from them: no rate, no time.

`measure` runs the recipe's own models on a few of its questions: responses by student and teacher through the recipe's
engines, their scores, and some optimizer steps, all by the functions that `distill` calls. What comes out can be saved
and used for other recipes of the same models on the same kind of machine.
"""

import itertools
import json
import math
import operator
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

import torch
from transformers import TrainerCallback

from masters_edge import data
from masters_edge.common import processes
from masters_edge.common.display import progress
from masters_edge.common.errors import UserError
from masters_edge.common.files import write_json
from masters_edge.data.records import Question
from masters_edge.engines import Speaker
from masters_edge.families import load_model
from masters_edge.families.prompts import Prompter
from masters_edge.plan.memory import AUTO_R_MAX
from masters_edge.plan.tokens import PhaseTokens
from masters_edge.recipe import Phase, Recipe, load, schedule
from masters_edge.recipe.schedule import questions_per_step
from masters_edge.recipe.stages import five_stages
from masters_edge.responses import store, visits
from masters_edge.responses.generate import Generator
from masters_edge.responses.provenance import Fingerprints
from masters_edge.responses.visits import Visit
from masters_edge.rewards.judge import with_judge
from masters_edge.run.cast import cast_of
from masters_edge.teacher.chain import TeacherChain
from masters_edge.training.batches import Visits
from masters_edge.training.phase import build
from masters_edge.training.phase import held_out as accuracy_of

CHECKED = 200  # images opened for the time that opening all takes
STEPS = 12  # optimizer steps that are timed, the first of them left out
PARTS = ("generate_student", "generate_teacher", "score", "train", "train_rounded", "evaluate")


@dataclass(frozen=True)
class Rates:
    """Tokens per second (questions for `evaluate`) of one process, and on what they were measured.

    `generate_student`, `generate_teacher`: response tokens; `score`: tokens of rows through student and teacher;
    `train`: tokens of the student's rows through a whole optimizer step, teacher and reference included, and
    `train_rounded` with weights rounded by `quantize.qat`; `evaluate`:
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


def seconds(
    rates: Rates, counted: PhaseTokens, response: float, held_out: int, processes: int, rounded: float = 0.0
) -> dict[str, float]:
    """Seconds by part of one phase; parts without a rate are left out. Processes are taken to share the work evenly.

    `rounded`: share of the phase's steps with rounded weights (`quantize.qat`); they count as plain ones where no rate
    was measured for them.
    """
    work = {
        "generate_student": counted.sum("generated_student"),
        "generate_teacher": counted.sum("generated_teacher") + counted.labelled_by_teacher * response,
        "score": counted.sum("scored_student") + counted.sum("scored_teacher"),
        "train": counted.sum("trained_student") * (1 - rounded),
        "evaluate": counted.evaluations * held_out,
    }
    if counted.objective == "labels":
        work |= {"generate_student": 0, "generate_teacher": 0, "score": 0}
    known = rates.tokens_per_second
    found = {name: tokens / known[name] / processes for name, tokens in work.items() if name in known}
    if rounded and "train" in known:
        rate = known.get("train_rounded", known["train"])
        found["train"] += counted.sum("trained_student") * rounded / rate / processes
    return found


@dataclass(frozen=True)
class Measured:
    """Rates, the recipe as it was settled for its first phase, and what came up: mean tokens of a distinct response and
    of one as drawn, distinct ones of a question."""

    rates: Rates
    recipe: Recipe
    response: float
    drawn: float
    distinct: float


def measure(recipe_path: Path, overrides: Sequence[str]) -> Measured:
    """Run the recipe's models on a few questions, in a folder of its own that is removed.

    Raises:
        UserError: models or data can't be had here.
    """
    recipe = load(recipe_path, overrides)
    before, threads = torch.get_num_threads(), recipe.train.threads
    torch.set_num_threads(threads if threads != "auto" else before)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _measured(recipe, recipe_path, Path(folder))
    finally:
        torch.set_num_threads(before)


def _measured(recipe: Recipe, recipe_path: Path, folder: Path) -> Measured:
    """By the functions that `distill` calls, on fewer questions and steps."""
    started = time.perf_counter()
    asked_for, recipe = recipe, _for_a_trial(with_judge(recipe, recipe_path))
    cast = cast_of(recipe, recipe_path)
    start_s = _import_seconds() + time.perf_counter() - started + _check_seconds(cast.questions.every)
    phase, device = recipe.train.phases[0], processes.state().device
    asked = visits.pool(phase, cast.questions.train)
    if not asked:
        raise UserError("nothing can be measured: the recipe's data hold no question for its first phase")
    teachers = TeacherChain(cast.teachers, recipe.mask, device)
    if teachers.masks is None:
        teachers.masks = [five_stages(AUTO_R_MAX)] * len(teachers)
    started = time.perf_counter()
    student = Speaker(Prompter.load(cast.student), cast.student, load_model(cast.student).float().to(device))
    if phase.objective != "labels":
        teachers.at(0, schedule.stages(recipe, phase, teachers.masks)[0].ratio)
    start_s += time.perf_counter() - started
    if phase.objective == "labels":
        found: _Responses | None = None
        seen = [Visit(q) for q in itertools.islice(itertools.cycle(asked), STEPS * questions_per_step(recipe, phase))]
        response = statistics.fmean(len(student.prompter.response_ids(q, q.answer or "")) for q in asked[:64])
    else:
        fingerprints = Fingerprints(cast.fingerprints["student"], cast.fingerprints["teachers"], "", "")
        generator = Generator(recipe, folder, student, teachers, fingerprints)
        recipe = visits.deal(recipe, phase, asked, generator)
        found = _responses(replace(generator, recipe=recipe), phase, asked)
        seen, response = found.visits, found.response
        recipe = visits.look_at(recipe, phase, seen, folder)
    known = found.rates if found else {}
    known |= _train(recipe, phase, student, teachers, seen, cast.questions.held_out, folder)
    rates = Rates(_device(), known, time.strftime("%Y-%m-%d"), start_s)
    drawn, distinct = (found.drawn, found.distinct) if found else (response, 1.0)
    return Measured(rates, _as_settled(asked_for, recipe), response, drawn, distinct)


def _for_a_trial(recipe: Recipe) -> Recipe:
    """The same work without traces: no trackers, no shared responses, no checkpoints. Which weights are masked doesn't
    change how long it takes, so norms need not be gathered first."""
    quiet = {"trackers": [], "save_every": 10 * STEPS, "log_every": 10 * STEPS}
    return recipe.model_copy(
        update={
            "mask": recipe.mask.model_copy(update={"score": "magnitude"}),
            "responses": recipe.responses.model_copy(update={"shared": None}),
            "train": recipe.train.model_copy(update=quiet),
        }
    )


def _as_settled(recipe: Recipe, trial: Recipe) -> Recipe:
    """The recipe with what the trial's first phase made of `auto`: how a step is dealt out, and the policy term."""
    counts = {"student": trial.responses.student, "teacher": trial.responses.teacher}
    policy = {name: getattr(trial.reward, name) for name in ("policy", "weight", "kl_beta")}
    return recipe.model_copy(
        update={
            "responses": recipe.responses.model_copy(update=counts),
            "reward": recipe.reward.model_copy(update=policy),
            "train": recipe.train.model_copy(update={"questions_per_step": trial.train.questions_per_step}),
        }
    )


@dataclass(frozen=True)
class _Responses:
    """Visits enough for the training steps, of the first stage, and what making them showed."""

    visits: list[Visit]
    rates: dict[str, float]
    response: float
    drawn: float
    distinct: float


def _responses(generator: Generator, phase: Phase, pool: Sequence[Question]) -> _Responses:
    """Time answering and scoring, shard by shard; the first shard is for warming up where there are more."""
    recipe, options = generator.recipe, generator.recipe.responses
    per_step = questions_per_step(recipe, phase)
    batch = options.batch_size // max(1, min(count for count in (options.student, options.teacher) if count))
    asked = pool[: min(len(pool), max(2 * batch, STEPS * per_step))]
    size = max(1, min(batch, len(asked) // 2))
    work: dict[str, list[tuple[int, float]]] = {}
    generator = replace(
        generator,
        recipe=recipe.model_copy(update={"responses": options.model_copy(update={"questions_per_shard": size})}),
        on_work=lambda part, tokens, seconds: work.setdefault(part, []).append((tokens, seconds)),
    )
    stage = schedule.stages(recipe, phase, generator.teachers.masks)[0]
    with progress("measuring responses", len(asked)) as bar:
        shards = generator.responses(stage, asked, {}, bar)
    rates = {}
    for part, done in work.items():
        tokens, spent = zip(*(done[1:] or done))
        rates[part] = sum(tokens) / sum(spent)
    rows = [row for shard in dict.fromkeys(shards.values()) for row in store.read(shard)]
    lengths, counts = [len(row["token_ids"]) for row in rows], [row["count"] for row in rows]
    seen = itertools.islice(itertools.cycle(asked), STEPS * per_step)
    return _Responses(
        [Visit(question, stage, shards[question.id]) for question in seen],
        rates,
        response=statistics.fmean(lengths),
        drawn=sum(map(operator.mul, lengths, counts)) / sum(counts),
        distinct=len(rows) / len(asked),
    )


def _train(
    recipe: Recipe,
    phase: Phase,
    student: Speaker,
    teachers: TeacherChain,
    seen: Sequence[Visit],
    held_out: Sequence[Question],
    folder: Path,
) -> dict[str, float]:
    """Time held-out answers and optimizer steps; the first step of a kind, which allocates, is left out.

    With `quantize.qat` the second half of the steps has its weights rounded.
    """
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    few, half = phase.model_copy(update={"steps": STEPS}), STEPS // 2
    rounded_from = half if recipe.quantize.qat else None
    trainer = build(recipe, few, student, teachers, seen, folder / "steps", rounded_from=rounded_from)
    trainer.args.save_strategy = "no"
    trainer.add_callback(Clock())
    rates = {}
    if evaluate := accuracy_of(recipe, trainer, student, held_out, folder):
        started = time.perf_counter()
        evaluate()
        rates["evaluate"] = len(held_out) / (time.perf_counter() - started)
    trainer.train()
    per_step = questions_per_step(recipe, phase)
    dataset = trainer.train_dataset
    assert isinstance(dataset, Visits)
    tokens = []
    for step in range(STEPS):
        groups = [dataset[index] for index in range(step * per_step, (step + 1) * per_step)]
        prompts = sum(len(student.prompter(group.question)[0]) for group in groups)
        tokens.append(prompts + sum(len(row["token_ids"]) - 1 for group in groups for row in group.rows))
    spent = [math.nan, *(after - before for before, after in zip(ends, ends[1:]))]
    plain = slice(1, half if rounded_from is not None else STEPS)
    rates["train"] = statistics.fmean(tokens[plain]) / statistics.median(spent[plain])
    if rounded_from is not None:
        rounded = slice(half + 1, STEPS)
        rates["train_rounded"] = statistics.fmean(tokens[rounded]) / statistics.median(spent[rounded])
    return rates


def _import_seconds() -> float:
    """What a fresh process takes until it can work."""
    started = time.perf_counter()
    imports = "import masters_edge.distill"
    subprocess.run([sys.executable, "-c", imports], check=True, capture_output=True)
    return time.perf_counter() - started


def _check_seconds(questions: Sequence[Question]) -> float:
    """Opening every image once, from how long some take."""
    every = {question.image_id: question for question in questions}
    some = list(every.values())[:CHECKED]
    started = time.perf_counter()
    data.verify_images(some, lambda done, total: None)
    return (time.perf_counter() - started) * len(every) / max(1, len(some))


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
