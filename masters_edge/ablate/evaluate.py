"""One experiment, in a worker: train its recipe, ask the finished student the test questions, write what came out.

`test.json` in the experiment's folder is written last and whole; an experiment that has one is done.
"""

import functools
import json
import shutil
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from masters_edge import data
from masters_edge.ablate.experiments import Experiment
from masters_edge.common import memo
from masters_edge.common.display import progress, say
from masters_edge.common.errors import UserError
from masters_edge.common.files import read_record, write_json
from masters_edge.data.images import some
from masters_edge.data.records import Question
from masters_edge.recipe import Recipe, checkpoint, load
from masters_edge.recipe.schema import Source
from masters_edge.run import folder as runs
from masters_edge.run.metrics import MetricsLog

SCHEMA_VERSION = 1
RESULT = "test.json"
_LABELLED = 600  # labelled training questions that a checkpoint is asked at most


@dataclass(frozen=True, slots=True)
class Task:
    """An experiment and all that a worker must know to do it."""

    experiment: Experiment
    recipe_path: Path
    folder: Path
    questions: int | None  # test questions; None for all
    threads: int | None  # None: what the run takes by itself


def result(experiment: Experiment, out: Path, questions: int | None) -> dict[str, Any] | None:
    """What a finished experiment found; None where it isn't finished, or was asked another number of questions.

    Raises:
        UserError: it is the result of another recipe, or can't be read.
    """
    path = experiment.folder(out) / RESULT
    try:
        found = read_record(path, None, f"remove {path.parent} to train it again")
    except FileNotFoundError:
        return None
    if found.get("schema_version") != SCHEMA_VERSION or found.get("digest") != experiment.digest:
        raise UserError(
            f"{path} is the result of another recipe than this ablation's arm {experiment.title!r}; give a new "
            f"--out, or remove {path.parent} to train it again"
        )
    return found if found.get("questions") == questions and "fingerprints" in found else None


def stale(found: dict[str, Any], experiment: Experiment, recipe_path: Path) -> str | None:
    """The checkpoint that has changed since the experiment was done with it; None where all are as they were."""
    recipe = load(recipe_path, experiment.overrides)
    names = [recipe.student, *recipe.teachers] if experiment.source is None else [experiment.source]
    prints = found["fingerprints"]
    for name, known in zip(names, [prints["student"], *prints["teachers"]], strict=True):
        if _print_of(checkpoint(name, recipe_path)) != known:
            return name
    return None


@functools.cache
def _print_of(source: str) -> str:
    from masters_edge import families

    return families.fingerprint(source)


def perform(task: Task) -> dict[str, Any]:
    """Do the experiment, as far as it isn't done; returns its result.

    Raises:
        UserError: the recipe can't be trained here, or there is nothing to measure on.
    """
    experiment = task.experiment
    memo.begin()
    if experiment.source is not None:
        return _measure_checkpoint(task)
    from masters_edge.distill import distill

    started = time.monotonic()
    overrides = [*experiment.overrides, f"run_dir={json.dumps(str(task.folder))}", *_same_threads(task.folder)]
    run = distill(task.recipe_path, overrides)
    recipe, info, ended = run.recipe(), run.info("threads", "fingerprints"), run.ended("steps", "training_seconds")
    seconds = round(time.monotonic() - started, 1)
    _use_threads(info["threads"])
    found = {
        "schema_version": SCHEMA_VERSION,
        "digest": experiment.digest,
        "title": experiment.title,
        "seed": experiment.seed,
        "questions": task.questions,
        "steps": ended["steps"],
        "training_seconds": ended["training_seconds"],
        "seconds": seconds,  # of the call that ended it: responses that it made itself included
        "fingerprints": info["fingerprints"],
        **_of_metrics(run.metrics),
        **_of_responses(run.folder),
        "test": _test(str(run.student), recipe, task),
    }
    write_json(task.folder / RESULT, found)
    for folder in run.folder.glob("phase-*/checkpoints"):
        shutil.rmtree(folder)  # to go on from; a finished run needs none
    return found


def _measure_checkpoint(task: Task) -> dict[str, Any]:
    """The accuracy of a checkpoint as it stands: on the test questions, and on labelled training questions."""
    from masters_edge.data.questions import read_questions

    experiment, recipe = task.experiment, load(task.recipe_path, task.experiment.overrides)
    assert experiment.source is not None
    source = checkpoint(experiment.source, task.recipe_path)
    _use_threads(task.threads)
    found: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "digest": experiment.digest,
        "title": experiment.title,
        "seed": experiment.seed,
        "questions": task.questions,
        "fingerprints": {"student": _print_of(source), "teachers": []},
        "test": _test(source, recipe, task),
    }
    labelled = [q for q in read_questions(recipe, task.recipe_path).train if q.accepted]
    if labelled:
        asked = data.sample(labelled, min(_LABELLED, len(labelled)), recipe.seed)
        scores = _scores(source, recipe, asked, recipe.reward.metric)
        found["labelled"] = {"asked": len(asked), "accuracy": 100 * statistics.fmean(scores)}
    write_json(task.folder / RESULT, found)
    return found


def _same_threads(folder: Path) -> list[str]:
    """A run that was begun goes on with its own number of threads, whatever --jobs is now."""
    run = runs.Run(folder)
    return [f"train.threads={run.recipe().train.threads}"] if (folder / "recipe.yaml").exists() else []


def _use_threads(count: int | None) -> None:
    if count is not None:
        import torch

        torch.set_num_threads(count)


def _of_metrics(path: Path) -> dict[str, float]:
    """From metrics.jsonl: held-out accuracy at the end, and means over the run of what was logged of the rewards."""
    lines = MetricsLog(path).lines()
    found: dict[str, float] = {}
    curve = [line["eval_accuracy"] for line in lines if line.get("eval_accuracy") is not None]
    if curve:
        found |= {"held_out": curve[-1], "held_out_at_start": curve[0]}
    for name in ("r_acc", "no_advantage", "unscored"):
        values = [line[name] for line in lines if line.get(name) is not None]
        if values:
            found[name] = statistics.fmean(values)
    return found


def _of_responses(folder: Path) -> dict[str, Any]:
    """What the first phase's responses were like, and the policy term that `auto` would take for them."""
    from masters_edge.responses import choices, summary

    for path in sorted(folder.glob(f"phase-*/{summary.FILE}")):
        found = summary.read(path)
        return {"responses": asdict(found), "auto": asdict(choices.policy(found))}
    return {}


def _test(source: str, recipe: Recipe, task: Task) -> dict[str, Any]:
    """Greedy answers to the test questions, scored."""
    asked, metric, name = test_questions(recipe, task.recipe_path, task.questions)
    started = time.monotonic()
    scores = _scores(source, recipe, asked, metric)
    return {
        "source": name,
        "metric": metric,
        "asked": len(asked),
        "sha256": data.fingerprint(asked),
        "accuracy": 100 * statistics.fmean(scores),
        "right": compact(scores),
        "seconds": round(time.monotonic() - started, 1),
    }


def compact(scores: list[float]) -> str | list[float]:
    """Scores in the questions' order: a character each where all are 0 or 1."""
    if all(score in (0, 1) for score in scores):
        return "".join("01"[int(score)] for score in scores)
    return [round(score, 4) for score in scores]


def _scores(source: str, recipe: Recipe, asked: list[Question], metric: str) -> list[float]:
    from masters_edge.common import processes
    from masters_edge.engines import Request
    from masters_edge.engines.transformers import Engine
    from masters_edge.families import load_model
    from masters_edge.families.prompts import Prompter
    from masters_edge.scoring import metrics

    options, prompter = recipe.responses, Prompter.load(source)
    model = load_model(source).float().to(processes.state().device)
    engine = Engine(model, prompter, options.max_new_tokens, options.batch_size)
    with progress(f"asking {Path(source).name}", len(asked)) as bar:
        answers = engine.answer([Request(question) for question in asked], on_progress=bar)
    texts = engine.texts([responses[0] for responses in answers])
    return [metrics.best_score(q.metric or metric, text, q.accepted) for text, q in zip(texts, asked, strict=True)]


def test_questions(recipe: Recipe, recipe_path: Path, count: int | None) -> tuple[list[Question], str, str]:
    """What students are asked: data.test, or the held-out questions where there is none; the metric, and a name.

    Raises:
        UserError: there is neither, or a question without an answer.
    """
    if recipe.data.test is None:
        from masters_edge.data.questions import read_questions

        held_out = read_questions(recipe, recipe_path).held_out
        if not held_out:
            raise UserError(
                f"{recipe_path} has no data.test and no held-out question with an answer, so there is nothing to "
                "measure the arms on; add data.test"
            )
        say(f"no data.test: the {len(held_out)} held-out questions are asked")
        asked, name = held_out, "held-out questions"
    else:
        asked, name = _read_test(recipe.data.test.model_dump_json(), recipe_path)
    from masters_edge.benchmarks import suites

    suite, unreadable = suites.from_questions(asked, recipe.bench.metric, name=name).take(count).readable()
    if unreadable:
        say(f"{name}: {len(unreadable):,} questions are left out of every arm: {some([*unreadable.values()])}")
    return list(suite.questions), suite.metric, name


@functools.lru_cache(maxsize=1)
def _read_test(source_json: str, recipe_path: Path) -> tuple[list[Question], str]:
    source = Source.model_validate_json(source_json)
    return data.read_source(source, recipe_path.parent), source.source + (f" {source.split}" if source.split else "")
