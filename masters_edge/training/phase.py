"""One phase of training: its trainer, built of a student, its visits and the teachers, and its run to the end.

In: what the phase learns from (`responses.visits`). Out: checkpoints, metrics, and at the end the student as
transformers saves it.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from masters_edge import families
from masters_edge.common import processes
from masters_edge.common.display import TrainingScreen, progress, say
from masters_edge.common.errors import UserError
from masters_edge.data.records import Question
from masters_edge.engines import Speaker
from masters_edge.engines.transformers import Engine
from masters_edge.recipe import Phase, Recipe
from masters_edge.recipe.schedule import Stage
from masters_edge.responses.visits import Visit
from masters_edge.run.metrics import MetricsLog
from masters_edge.teacher.chain import TeacherChain
from masters_edge.training import qat
from masters_edge.training.batches import Collator, Visits
from masters_edge.training.checkpoints import MarkComplete, last_checkpoint, newest
from masters_edge.training.held_out import HeldOut
from masters_edge.training.reporter import Reporter
from masters_edge.training.setup import arguments, needs_reference, needs_teacher, trainable
from masters_edge.training.sharded import whole
from masters_edge.training.trainer import NotFinite, PhaseTrainer


def build(
    recipe: Recipe,
    phase: Phase,
    student: Speaker,
    teachers: TeacherChain,
    visits: Sequence[Visit],
    checkpoints: Path,
    *,
    rounded_from: int | None = None,
    start: str | None = None,
) -> PhaseTrainer:
    """The trainer of a phase, ready to train; the student's model becomes its own.

    Args:
        recipe: settled: nothing in it is `auto` any more.
        phase: of the recipe, or one like it with fewer steps.
        student: as the phase starts from.
        teachers: let go of where none runs beside the student.
        visits: `phase.steps` times the questions of a step, in order.
        checkpoints: where they go.
        rounded_from: the step from which weights are rounded as `export` will (`quantize.qat`); None: never.
        start: the checkpoint that the run's first phase started from; None where it is the student's own.
    """
    reference = _reference(recipe, phase, student, start or student.source)
    model = trainable(student.model, recipe)
    rounding = None
    if rounded_from is not None:
        assert recipe.quantize.qat is not None
        rounding = qat.FakeQuantization(model, qat.plan_of(recipe.quantize.qat), rounded_from)
    beside = teachers if needs_teacher(recipe, phase) else None
    if beside is None:
        teachers.release()
    return PhaseTrainer(
        phase=phase,
        recipe=recipe,
        prompter=student.prompter,
        teachers=beside,
        reference=reference,
        model=model,
        args=arguments(recipe, phase, checkpoints),
        train_dataset=Visits(visits, student.prompter),
        data_collator=Collator(student.prompter, beside, recipe.reward),
        rounding=rounding,
        callbacks=[MarkComplete(), *([rounding] if rounding else [])],
    )


def _reference(recipe: Recipe, phase: Phase, student: Speaker, start: str) -> Any:
    """pi_ref of Eq. 8 as a model of its own; None without the KL, or where adapters can be switched off instead."""
    if not needs_reference(recipe, phase):
        return None
    if recipe.reward.reference == "start" and start != student.source:
        return families.load_model(start).float().to(student.model.device).requires_grad_(False)
    return None if recipe.train.lora else copy.deepcopy(student.model).requires_grad_(False)


def rounded_from(recipe: Recipe, number: int) -> int | None:
    """The step of phase `number` from which weights are rounded: in the last phase alone, and with `quantize.qat`."""
    phases = recipe.train.phases
    if recipe.quantize.qat is None or number + 1 < len(phases):
        return None
    return recipe.quantize.qat.plain_steps(phases[number].steps)


def train(
    trainer: PhaseTrainer, number: int, stages: list[Stage], log: MetricsLog, held_out: Callable[[], float] | None
) -> None:
    """Train from the last whole checkpoint to the end, on the screen and in the run's metrics.

    Args:
        trainer: as `build` makes it.
        number: the phase's place in the recipe.
        stages: of the phase, for what is reported.
        log: of the run; lines behind the checkpoint are dropped.
        held_out: the student's accuracy as it stands, in per cent; None without held-out questions.
    """
    phase = trainer.phase
    if trainer.rounding:
        say(f"weights rounded as {trainer.rounding.plan.name} from step {trainer.rounding.first + 1} on")
    resume = last_checkpoint(Path(trainer.args.output_dir or ""))
    here = processes.state()
    if here.is_main_process:
        log.keep(number, int(resume.name.rpartition("-")[2]) if resume else -1)
    here.wait_for_everyone()
    with progress("training", phase.steps) as bar:
        trainer.add_callback(
            Reporter(
                log,
                trainer,
                number,
                stages,
                held_out,
                on_line=TrainingScreen(bar),
                on_step=lambda step: bar(completed=step),
            )
        )
        try:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        except NotFinite as error:
            raise UserError(_stopped(trainer, number, error)) from None


def _stopped(trainer: PhaseTrainer, number: int, error: NotFinite) -> str:
    """What to say of a phase that came to numbers that are none: where, what is left, what to do."""
    good, rate = newest(Path(trainer.args.output_dir or "")), trainer.recipe.train.learning_rate
    left = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
    if good and (good / "config.json").exists() and processes.state().num_processes == 1:
        trainer.prompter.processor.save_pretrained(good)
        left += ", a student as export --student takes it"
    return (
        f"training stopped in phase {number + 1}, {error}, which no later step mends; {left}; lower "
        f"train.learning_rate (now {rate:g}) and start again with a new run_dir"
    )


def held_out(
    recipe: Recipe, trainer: PhaseTrainer, student: Speaker, questions: Sequence[Question], folder: Path
) -> HeldOut | None:
    """Accuracy of the trainer's student as it stands, on held-out questions; None where there are none.

    `folder` keeps what a judge said.
    """
    if not questions:
        return None
    options = recipe.responses
    model: Any = trainer.model
    engine = Engine(model, student.prompter, options.max_new_tokens, options.batch_size)
    return HeldOut(engine, questions, recipe.reward, folder, lambda: whole(trainer.model_wrapped))
