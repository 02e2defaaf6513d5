"""`distill` and `generate`: the whole way from a recipe to a student, phase by phase.

Each phase makes its responses from the student it starts from, then trains. Everything made is on disk at once, so the
same command after a kill goes on where it stopped.
"""

import contextlib
import copy
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masters_edge import data
from masters_edge.common import memo, processes
from masters_edge.common.display import TrainingScreen, progress, say
from masters_edge.common.errors import UserError
from masters_edge.common.files import write_json
from masters_edge.data.records import Question
from masters_edge.recipe import Phase, Recipe, checkpoint, load, schedule
from masters_edge.recipe.schedule import Stage
from masters_edge.run import folder as runs
from masters_edge.run.folder import Run
from masters_edge.teacher import turn


@dataclass(frozen=True)
class Questions:
    """What a run learns from, and the questions set aside for its curve; those of them without a label stand apart."""

    train: list[Question]
    held_out: list[Question]
    unlabelled: list[Question] = field(default_factory=list)


def read_questions(recipe: Recipe, recipe_path: Path) -> Questions:
    """Training questions with the labels the recipe keeps, and the held-out ones with theirs."""
    return memo.once(
        "questions",
        lambda: (recipe.data.model_dump_json(), recipe.seed, recipe_path),
        lambda: _read_questions(recipe, recipe_path),
    )


def _read_questions(recipe: Recipe, recipe_path: Path) -> Questions:
    questions = data.read_source(recipe.data.train, recipe_path.parent)
    held_out: list[Question] = []
    if recipe.data.held_out:
        questions, held_out = data.hold_out(questions, recipe.data.held_out, recipe.seed)
    unlabelled = [question for question in held_out if question.answer is None]
    held_out = [question for question in held_out if question.answer is not None]
    if recipe.data.limit:
        questions = data.sample(questions, recipe.data.limit, recipe.seed)
    if recipe.data.labels != "all":
        questions = data.keep_labels(questions, recipe.data.labels, recipe.seed)
    return Questions(questions, held_out, unlabelled)


def distill(
    recipe_path: Path, overrides: Sequence[str] = (), *, only_generate: bool = False, join: bool = False
) -> Run:
    """Run the recipe; returns its run folder, finished unless `only_generate`.

    `join`: help another command to fill that folder with responses, with `only_generate`.
    """
    recipe = load(recipe_path, overrides)
    if join:
        turn.require_run(runs.folder_of(recipe, recipe_path))
    student = checkpoint(recipe.student, recipe_path)
    teachers = [checkpoint(name, recipe_path) for name in recipe.teachers]
    from masters_edge import families

    questions = read_questions(recipe, recipe_path)
    if not questions.train:
        raise UserError(f"{recipe_path}: data.train has no question left after holding out {recipe.data.held_out}")
    fingerprints = {
        "student": families.fingerprint(student),
        "teachers": [families.fingerprint(teacher) for teacher in teachers],
        "data": data.fingerprint(questions.train),
    }
    needs_teacher = any(phase.objective != "labels" for phase in recipe.train.phases)
    processor = families.load_processor(student)
    if needs_teacher:
        for teacher in teachers:
            families.require_same_tokenizer(student, processor, teacher, families.load_processor(teacher))
    from masters_edge import training

    training.check(recipe, student)
    here = processes.state()
    known = runs.folder_of(recipe, recipe_path)
    resumed = (known / "run.json").exists()
    with contextlib.ExitStack() as held:
        if here.is_main_process:  # the others wait, then read what it wrote
            if not resumed:
                sources = (student, *(teachers if needs_teacher else ()))
                checked = (fingerprints["data"], *sources)
                memo.once("checked", lambda: checked, lambda: _check_data(questions, sources))
            if not join:
                held.enter_context(runs.lock(known))
            runs.open_run(recipe, recipe_path, fingerprints, _threads(recipe, here.num_processes))
        here.wait_for_everyone()
        run = Run(known)
        if run.finished and not only_generate:
            say(f"{run.folder} is finished: nothing to do (remove it, or set run_dir, to train again)")
            return run
        if resumed:
            say(f"{'helping' if join else 'going on'} with {run.folder}")
        if here.num_processes > 1:
            say(f"{here.num_processes} processes, {here.device.type}")
        judged = _with_judge(recipe, recipe_path)
        _Pass(run, judged, student, teachers, questions, fingerprints).run_phases(only_generate, join)
    return run


def _with_judge(recipe: Recipe, recipe_path: Path) -> Recipe:
    """The recipe with its judge's model as transformers finds it."""
    if recipe.reward.judge is None:
        return recipe
    from masters_edge.rewards.judge import resolved

    judge = resolved(recipe.reward.judge, recipe_path)
    return recipe.model_copy(update={"reward": recipe.reward.model_copy(update={"judge": judge})})


def _check_data(questions: Questions, sources: Sequence[str]) -> None:
    """Every image can be read, and fills as many placeholders as the prompt of each checkpoint has."""
    from masters_edge.families.prompts import Prompter, check_image_tokens

    every = questions.train + questions.held_out + questions.unlabelled
    with progress("checking images", len({q.image_id for q in every})) as bar:
        data.verify_images(every, lambda done, _: bar(completed=done))
    with progress("checking prompts", 1) as bar:
        prompters = [Prompter.load(source) for source in sources]
        check_image_tokens(prompters, every, lambda done, total: bar(completed=done, total=total))


def _threads(recipe: Recipe, count: int) -> int:
    """Each process's part of the cores that are free now; a resumed run keeps what run.json says, since sums depend
    on it."""
    if recipe.train.threads != "auto":
        return recipe.train.threads
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = psutil.cpu_percent(interval=0.3) / 100 * (os.cpu_count() or 1)
    return max(1, round((cores - busy) / int(os.environ.get("LOCAL_WORLD_SIZE", count))))


class _Pass:
    """One call of `distill` on one run folder."""

    def __init__(
        self,
        run: Run,
        recipe: Recipe,
        student: str,
        teachers: list[str],
        questions: Questions,
        fingerprints: dict[str, Any],
    ) -> None:
        import torch

        from masters_edge.families.prompts import Prompter
        from masters_edge.run.metrics import MetricsLog
        from masters_edge.teacher.chain import TeacherChain

        torch.set_num_threads(run.info()["threads"])
        self.run, self.student, self.questions = run, student, questions
        self.asked = self.recipe = recipe  # what was asked for, and what a phase makes of it where that is `auto`
        self.fingerprints, self.device = fingerprints, processes.state().device
        self.prompter = Prompter.load(student)
        self.family = self.prompter.family
        self.teachers = TeacherChain(teachers, recipe.mask, self.device, run.folder)
        self.log = MetricsLog(run.metrics)

    def run_phases(self, only_generate: bool, join: bool = False) -> None:
        started, source = time.monotonic(), self.student
        phases = self.recipe.train.phases
        if any(phase.objective != "labels" for phase in phases):
            self._ask_judge()
            taken = turn.masks_turn(self.run.folder, self.recipe.mask, len(self.teachers))
            with taken if join else contextlib.nullcontext():
                self._prepare_masks()
        for number, phase in enumerate(phases):
            folder = self.run.folder / f"phase-{number}-{phase.objective}"
            out = self.run.student if number == len(phases) - 1 else folder / "student"
            if not out.exists():
                self._phase(number, phase, source, folder, out, only_generate)
            if only_generate:
                if number < len(phases) - 1:
                    say("later phases generate from the student that the earlier ones train: run distill for those")
                return
            source = str(out)
        if not processes.state().is_main_process:
            return
        write_json(
            self.run.folder / "finished.json",
            {
                "steps": sum(phase.steps for phase in phases),
                "training_seconds": round(sum(self.log.seconds(n) for n in range(len(phases))), 1),
                "seconds_of_last_call": round(time.monotonic() - started, 1),
                "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        )
        say(f"student: {self.run.student}")

    def _ask_judge(self) -> None:
        """Have the judge say something, before hours are spent on what it is to score."""
        from masters_edge.rewards.accuracy import JUDGE, Scorer

        reward = self.recipe.reward
        asked = self.questions.train + self.questions.held_out
        if any((question.metric or reward.metric) == JUDGE for question in asked):
            if processes.state().is_main_process:
                with Scorer(reward, self.run.folder) as scorer:
                    scorer.check()
            processes.state().wait_for_everyone()

    def _prepare_masks(self) -> None:
        """What the masks follow from, where the recipe has it measured: activation norms, each teacher's r_max."""
        mask, asked = self.recipe.mask, self.questions
        if mask.score == "activation":
            from masters_edge.teacher import norms

            chosen = data.sample(asked.train, min(mask.calibration_questions, len(asked.train)), seed=self.recipe.seed)
            missing = sum(not norms.path(self.run.folder, t).exists() for t in range(len(self.teachers)))
            with progress("activation norms", missing * len(chosen)) as bar:
                norms.gather(self.teachers, self.run.folder, chosen, self.recipe.responses.max_new_tokens, bar)
        if mask.r_max == "auto":
            from masters_edge.teacher import ladder

            held_out = asked.held_out or asked.unlabelled
            self.teachers.masks = ladder.measure(self.run.folder, self.recipe, self.teachers, held_out)

    def _phase(self, number: int, phase: Phase, source: str, folder: Path, out: Path, only_generate: bool) -> None:
        from masters_edge.families import load_model

        student = load_model(source).float().to(self.device)
        say(f"phase {number + 1} of {len(self.recipe.train.phases)}: {phase.objective}, {phase.steps} steps")
        visits = self._visits(number, phase, student, source, folder)
        self._look_at(phase, visits, folder)
        if not only_generate:
            self._train(number, phase, student, visits, source, folder, out)

    def _visits(self, number: int, phase: Phase, student: Any, source: str, folder: Path) -> list[Any]:
        """Every visit of the phase in order, responses made where they are missing."""
        from masters_edge.training import Visit

        pool = [q for q in self.questions.train if phase.objective != "labels" or q.answer is not None]
        self.recipe = self._split(phase, student, source, pool, folder)
        per_step = schedule.questions_per_step(self.recipe, phase)
        order = schedule.visits(len(pool), phase.steps, per_step, seed=self.recipe.seed * 1000 + number)
        if phase.objective == "labels":
            return [Visit(pool[i]) for i in order.flat]
        generator = self._generator(student, source, folder)
        labels = self._teacher_labels(phase, generator, [pool[i] for i in dict.fromkeys(order.flat)])
        found: list[Any] = []
        for stage in schedule.stages(self.recipe, phase, self.teachers.masks):
            asked = [pool[i] for i in dict.fromkeys(order[stage.first : stage.last].flat)]
            title = f"responses, {self._stage_name(stage)}"
            with progress(title, len(asked)) as bar:
                shards = generator.responses(stage, asked, labels, bar)
            found += [Visit(pool[i], stage, shards[pool[i].id]) for i in order[stage.first : stage.last].flat]
        return found

    def _split(self, phase: Phase, student: Any, source: str, pool: list[Question], folder: Path) -> Recipe:
        """The recipe with a step's sequences dealt out for this phase; one process looks, the others read."""
        from masters_edge.responses import choices

        def measure() -> float:
            generator = self._generator(student, source, folder)
            stage = schedule.stages(self.recipe, phase, self.teachers.masks)[0]
            asked = data.sample(pool, min(choices.ASKED, len(pool)), self.recipe.seed)
            with progress("responses alike?", len(asked)) as bar:
                return choices.distinct(generator.drawn(stage, asked, bar))

        self.recipe, out = self.asked, folder / choices.SPLIT_FILE
        here = processes.state()
        with here.main_process_first():
            settled = choices.settle_split(self.asked, phase, len(pool), out, measure)
        if settled is not self.asked:
            chosen = settled.responses
            say(
                f"split: {settled.train.questions_per_step} questions a step, responses of each: {chosen.student} by "
                f"the student, {chosen.teacher} by the teacher"
            )
        return settled

    def _look_at(self, phase: Phase, visits: list[Any], folder: Path) -> None:
        """Say what the phase's responses are like, and choose the policy term where the recipe leaves it open."""
        from masters_edge.responses import choices, summary

        shards = summary.in_order(visit.shard for visit in visits if visit.shard is not None)
        if not shards:
            return
        with processes.state().main_process_first():
            found = summary.of(shards, self.recipe.reward, folder / summary.FILE)
        say(found.sentence())
        if phase.objective in ("joint", "reward") and self.recipe.reward.policy == "auto":
            with processes.state().main_process_first():
                self.recipe = choices.settle_policy(self.recipe, found, folder / choices.POLICY_FILE)
            reward = self.recipe.reward
            say(f"policy: {reward.policy}, weight {reward.weight:g}, beta {reward.kl_beta:g}")

    def _stage_name(self, stage: Stage) -> str:
        teacher = f"{self.teachers.name(stage.teacher)} " if len(self.teachers) > 1 else ""
        return f"{teacher}mask {stage.ratio:.2f}"

    def _generator(self, student: Any, source: str, folder: Path) -> Any:
        from masters_edge import families
        from masters_edge.responses.generate import Generator
        from masters_edge.responses.provenance import Prints

        known = self.fingerprints
        own = known["student"] if source == self.student else families.fingerprint(source)
        shared = self.recipe.responses.shared is not None  # only then does anybody ask
        bare = data.fingerprint(q.without_answer() for q in self.questions.train) if shared else ""
        prints = Prints(own, known["teachers"], known["data"], bare)
        return Generator(self.recipe, folder, student, source, self.family, self.prompter, self.teachers, prints)

    def _teacher_labels(self, phase: Phase, generator: Any, visited: list[Question]) -> dict[str, str]:
        reward = self.recipe.reward
        unlabelled = [q for q in visited if q.answer is None]
        own = phase.objective in ("joint", "reward") and reward.accuracy
        wanted = (own or self.recipe.responses.shared) and reward.unlabelled == "teacher"
        if not wanted or not unlabelled:
            return {}
        with progress(f"labels by {self.teachers.name(len(self.teachers) - 1)}, unmasked", len(unlabelled)) as bar:
            return generator.labels(unlabelled, bar)

    def _label_row(self, question: Question) -> dict[str, Any]:
        return {"token_ids": self.prompter.response_ids(question, question.answer or ""), "count": 1}

    def _train(
        self, number: int, phase: Phase, student: Any, visits: list[Any], source: str, folder: Path, out: Path
    ) -> None:
        from masters_edge import training
        from masters_edge.run.metrics import Reporter

        recipe, here = self.recipe, processes.state()
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(self.run.folder / "tensorboard" / folder.name)
        os.environ.setdefault("WANDB_DIR", str(self.run.folder))
        os.environ.setdefault("WANDB_PROJECT", "masters-edge")
        reference = None
        if training.needs_reference(recipe, phase) and not recipe.train.lora:  # adapters can be switched off instead
            reference = copy.deepcopy(student).requires_grad_(False)
        student = training.trainable(student, recipe)
        rounding = None
        if recipe.quantize.qat and number == len(recipe.train.phases) - 1:
            rounding = training.FakeQuantization.of(student, recipe.quantize.qat, phase)
            say(f"weights rounded as {rounding.plan.name} from step {rounding.first + 1} on")
        checkpoints = folder / "checkpoints"
        resume = training.last_checkpoint(checkpoints)
        if here.is_main_process:
            self.log.keep(number, int(resume.name.rpartition("-")[2]) if resume else -1)
        here.wait_for_everyone()
        teachers = self.teachers if training.needs_teacher(recipe, phase) else None
        if teachers is None:
            self.teachers.release()
        with progress("training", phase.steps) as bar:
            reporter = Reporter(
                self.log,
                recipe,
                number,
                phase,
                schedule.stages(recipe, phase, self.teachers.masks),
                self._evaluator(student, lambda: training.whole(trainer.model_wrapped), folder),
                on_line=TrainingScreen(bar),
                on_step=lambda step: bar(completed=step),
            )
            trainer = training.PhaseTrainer(
                phase=phase,
                recipe=recipe,
                family=self.family,
                prompter=self.prompter,
                teachers=teachers,
                reference=reference,
                model=student,
                args=training.arguments(recipe, phase, checkpoints),
                train_dataset=training.Visits(visits, self._label_row),
                data_collator=training.Collator(self.prompter, teachers, recipe.reward),
                rounding=rounding,
                callbacks=[reporter, training.MarkComplete(), *([rounding] if rounding else [])],
            )
            reporter.trainer = trainer
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        trainer.save_student(out, self.prompter.processor, source)

    def _evaluator(self, student: Any, whole: Callable[[], Any], folder: Path) -> Callable[[], float] | None:
        """Held-out accuracy of the student as it stands, in per cent; None without held-out questions.

        `whole`: makes a context in which every process has the student in one piece.
        """
        from masters_edge.engines.transformers import Engine
        from masters_edge.training.held_out import HeldOut

        if not self.questions.held_out:
            return None
        options = self.recipe.responses
        engine = Engine(student, self.family, self.prompter, options.max_new_tokens, options.batch_size)
        return HeldOut(engine, self.questions.held_out, self.recipe.reward, folder, whole)
