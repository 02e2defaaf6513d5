"""`distill` and `generate`: from a recipe to a student, in the order in which things happen.

Each phase makes its responses from the student it starts from, then trains. Everything made is on disk at once, so the
same command after a kill goes on where it stopped. What a recipe leaves to `auto` is settled on the way, and the
settled recipe is handed on; the one that was asked for stays as it is.
"""

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from masters_edge import data, families, training
from masters_edge.common import processes, seals
from masters_edge.common.cpu import free_cores
from masters_edge.common.display import say
from masters_edge.common.errors import UserError
from masters_edge.common.files import write_text
from masters_edge.engines import Speaker
from masters_edge.families.prompts import Prompter
from masters_edge.recipe import Recipe, load, schedule
from masters_edge.responses import visits
from masters_edge.responses.generate import Generator
from masters_edge.responses.provenance import Fingerprints
from masters_edge.rewards import judge
from masters_edge.rewards.accuracy import ask_judge
from masters_edge.run import folder as runs
from masters_edge.run.cast import Cast, cast_of, check_data, distils
from masters_edge.run.folder import Run
from masters_edge.run.metrics import MetricsLog
from masters_edge.run.phases import PhaseOfRun, finish
from masters_edge.teacher import masks, turn
from masters_edge.teacher.chain import TeacherChain
from masters_edge.training import phase as training_phase


def distill(
    recipe_path: Path, overrides: Sequence[str] = (), *, only_generate: bool = False, join: bool = False
) -> Run:
    """Run the recipe; returns its run folder, finished unless `only_generate`.

    `join`: help another command to fill that folder with responses, with `only_generate`.

    Raises:
        UserError: the recipe, its data or its models can't be used, or another command writes into the run's folder.
    """
    recipe = load(recipe_path, overrides)
    if join:
        turn.require_run(runs.folder_of(recipe, recipe_path))
    here = processes.state()
    run = Run(runs.folder_of(recipe, recipe_path))
    with contextlib.ExitStack() as held:
        if here.is_main_process and not join:  # first: a folder that can't be written says so before data are read
            held.enter_context(runs.lock(run.folder))
        cast = cast_of(recipe, recipe_path)
        training.check(recipe, cast.student)
        if distils(recipe):
            masks.check(recipe, cast.teachers)
        resumed = (run.folder / "run.json").exists()
        if here.is_main_process:  # the others wait, then read what it wrote
            if not resumed:
                training.check_attention(recipe, cast, check_data(cast, recipe, recipe_path))
            threads = _threads(recipe, here.num_processes)
            runs.open_run(recipe, recipe_path, cast.fingerprints, threads, helping=join)
            _say_left_out(run, cast)
        here.wait_for_everyone()
        if run.finished and not only_generate:
            say(f"{run.folder} is finished: nothing to do (remove it, or set run_dir, to train again)")
            return run
        if resumed:
            say(f"{'helping' if join else 'going on'} with {run.folder}")
        if here.num_processes > 1:
            say(f"{here.num_processes} processes, {here.device.type}")
        _phases(run, judge.with_judge(recipe, recipe_path), cast, only_generate, join)
    return run


def _say_left_out(run: Run, cast: Cast) -> None:
    """What the data hold and nothing is trained on, as the recipe asked for it."""
    for note in cast.questions.left_out.notes:
        say(f"data.train: {note}")
    if skipped := cast.questions.left_out.images:
        write_text(run.folder / runs.SKIPPED, "".join(f"{line}\n" for line in skipped))
        say(f"data.train: all of them stand in {run.folder / runs.SKIPPED}")


def _phases(run: Run, recipe: Recipe, cast: Cast, only_generate: bool, join: bool) -> None:
    """Phase after phase, each from the student of the one before, and the mark that all is done."""
    torch.set_num_threads(run.info("threads")["threads"])
    started, source = time.monotonic(), cast.student
    teachers = TeacherChain(cast.teachers, recipe.mask, processes.state().device, run.folder)
    if distils(recipe):
        ask_judge(recipe.reward, cast.questions.train + cast.questions.held_out, run.folder)
        taken = turn.masks_turn(run.folder, recipe.mask, len(teachers)) if join else contextlib.nullcontext()
        with taken:
            masks.measure(run.folder, recipe, teachers, cast.questions)
    for number in range(len(recipe.train.phases)):
        at = PhaseOfRun(run, recipe, number)
        if not at.out.exists():
            say(f"phase {number + 1} of {at.count}: {at.phase.objective}, {at.phase.steps} steps")
            model = families.load_model(source).float().to(processes.state().device)
            student = Speaker(Prompter.load(cast.student), source, model)
            settled, visited = _visits(at, cast, student, teachers)
            if not only_generate:
                _train(replace(at, recipe=settled), cast, student, teachers, visited)
        if only_generate:
            if number + 1 < at.count:
                say("later phases generate from the student that the earlier ones train: run distill for those")
            return
        source = _whole(at.out)
    if processes.state().is_main_process:
        finish(run, recipe, started)


def _whole(student: Path) -> str:
    """A student that a phase left, as the next one starts from it.

    Raises:
        UserError: it isn't what was saved.
    """
    if processes.state().is_main_process and (wrong := seals.damage(student)):
        raise UserError(
            f"{student} is damaged ({wrong}); delete it, and the same command makes it again from that phase's last "
            "checkpoint"
        )
    return str(student)


def _visits(at: PhaseOfRun, cast: Cast, student: Speaker, teachers: TeacherChain) -> tuple[Recipe, list[visits.Visit]]:
    """The recipe as settled for this phase, and what the phase visits, responses and all."""
    recipe, number, phase = at.recipe, at.number, at.phase
    asked = visits.pool(phase, cast.questions.train)
    if phase.objective == "labels":
        return recipe, visits.of_labels(recipe, number, phase, asked)
    known, shared = cast.fingerprints, recipe.responses.shared is not None
    fingerprints = Fingerprints(
        known["student"] if student.source == cast.student else families.fingerprint(student.source),
        known["teachers"],
        known["data"],
        data.fingerprint(q.without_answer() for q in cast.questions.train) if shared else "",  # else nobody asks
    )
    generator = Generator(recipe, at.folder, student, teachers, fingerprints)
    recipe = visits.deal(recipe, phase, asked, generator)
    found = visits.of_responses(recipe, number, phase, asked, replace(generator, recipe=recipe))
    return visits.look_at(recipe, phase, found, at.folder), found


def _train(
    at: PhaseOfRun,
    cast: Cast,
    student: Speaker,
    teachers: TeacherChain,
    visited: Sequence[visits.Visit],
) -> None:
    """Train the student on what it visits, and save it."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(at.run.folder / "tensorboard" / at.folder.name)
    os.environ.setdefault("WANDB_DIR", str(at.run.folder))
    os.environ.setdefault("WANDB_PROJECT", "masters-edge")
    recipe, phase, first = at.recipe, at.phase, training_phase.rounded_from(at.recipe, at.number)
    trainer = training_phase.build(
        recipe, phase, student, teachers, visited, at.folder / "checkpoints", rounded_from=first, start=cast.student
    )
    accuracy = training_phase.held_out(recipe, trainer, student, cast.questions.held_out, at.folder)
    stages = schedule.stages(recipe, phase, teachers.masks)
    training_phase.train(trainer, at.number, stages, MetricsLog(at.run.metrics), accuracy)
    last = at.number + 1 == at.count
    trainer.save_student(at.out, student.prompter.processor, student.source, seal=not last)


def _threads(recipe: Recipe, count: int) -> int:
    """Each process's part of the cores that are free now; a resumed run keeps what run.json says, since sums depend
    on it."""
    if recipe.train.threads != "auto":
        return recipe.train.threads
    return max(1, round(free_cores() / int(os.environ.get("LOCAL_WORLD_SIZE", count))))
