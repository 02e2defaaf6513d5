"""`masters-edge plan`: what a recipe takes, before anything starts: parameters, memory, tokens, disk, time.

In: a recipe, configs (no weights), and, where they can be read, its questions. Out: a `Plan`, for the screen
(`screen.py`) and as JSON. Nothing is written but what is asked for, and no weights are read unless a rate is measured.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masters_edge.common.errors import UserError
from masters_edge.data.questions import read_questions
from masters_edge.data.sources import Unavailable
from masters_edge.plan import cures, memory, prompts, rates, step, tokens
from masters_edge.plan.disk import phase_disk
from masters_edge.plan.memory import Machine, Models, Sharding
from masters_edge.plan.planned import Plan, PlannedPhase
from masters_edge.plan.shapes import shape
from masters_edge.plan.tokens import Lengths
from masters_edge.recipe import Recipe, load
from masters_edge.run import folder as runs
from masters_edge.teacher import masks
from masters_edge.training.phase import rounded_from
from masters_edge.training.setup import questions_per_device


@dataclass(frozen=True)
class PlanOptions:
    """What the command line says besides the recipe. Memory in bytes; lengths in tokens."""

    gpus: int | None = None
    gpu_bytes: int | None = None
    sharding: Sharding = "none"
    rate: Path | None = None
    measure: bool = False
    prompt_tokens: int | None = None
    response_tokens: float | None = None
    configs: dict[str, str] = field(default_factory=dict)


def plan(recipe_path: Path, overrides: Sequence[str] = (), asked: PlanOptions | None = None) -> Plan:
    """Plan a recipe.

    Raises:
        UserError: the recipe is wrong, a config can't be had, the step can't be dealt out to so many processes, or a
            rate is asked for that can't be measured.
    """
    asked = asked or PlanOptions()
    recipe = load(recipe_path, overrides)
    if asked.sharding != "none" and (asked.gpus or 1) < 2:
        raise UserError(f"--shard {asked.sharding} cuts models up over several GPUs; say how many with --gpus")
    machine, assumed = _machine(asked), list[str]()
    given = rates.read(asked.rate) if asked.rate else None
    for phase in recipe.train.phases:  # refuses before anything takes time
        questions_per_device(recipe, phase, machine.processes)
    sources = [prompts.source_of(name, recipe_path) for name in (recipe.student, *recipe.teachers)]
    configs, names = _configs(asked, recipe, sources), [recipe.student, *recipe.teachers]
    shapes = [dataclasses.replace(shape(source, configs), name=name) for source, name in zip(sources, names)]
    for teacher in shapes[1:] if any(phase.objective != "labels" for phase in recipe.train.phases) else ():
        masks.check_of(recipe, teacher.model, teacher.name)
    questions, said = _questions(recipe, recipe_path)
    assumed += said
    some = prompts.sample(questions, recipe.seed) if questions else []
    built = [prompts.prompt(s, source, some, asked.prompt_tokens) for s, source in zip(shapes, sources)]
    assumed += [f"prompts of {s.name}: {p.mean:,.0f} tokens ({p.source})" for s, p in zip(shapes, built)]
    models = Models(shapes[0], shapes[1:], built[0], built[1:])
    measured = rates.measure(recipe_path, overrides) if asked.measure else None
    known = measured.rates if measured else given
    if measured:
        recipe = measured.recipe
    group = recipe.responses.student + recipe.responses.teacher
    most = recipe.responses.max_new_tokens
    response, drawn, distinct = float(most), float(most), float(group)
    if asked.response_tokens is not None:
        response = drawn = asked.response_tokens
        assumed.append(f"responses: {response:g} tokens on average (--response-tokens); memory: {most:,}, the most")
    elif measured:
        response, drawn, distinct = measured.response, measured.drawn, measured.distinct
        assumed.append(f"responses: {drawn:.1f} tokens, {distinct:.1f} distinct of {group} a question, as measured")
    else:
        assumed.append(f"responses: {most:,} tokens, the most (--response-tokens for a mean), all distinct")
    if recipe.mask.r_max == "auto":
        assumed.append(f"mask.r_max auto: {memory.AUTO_R_MAX:g} until it is measured; measuring it is not counted")
    lengths = Lengths(built[0].mean, tuple(p.mean for p in built[1:]), response, distinct, drawn)
    distils = any(phase.objective != "labels" for phase in recipe.train.phases)
    responses = memory.responses(models, recipe, machine) if distils else None
    trained = step.trained_model(shapes[0], recipe)
    everything = sum(p.numel() for p in trained.parameters())
    learn = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    work = [tokens.Work.of(s, p.image) for s, p in zip(shapes, built)]
    phases = []
    for number, phase in enumerate(recipe.train.phases):
        rows, passes = questions_per_device(recipe, phase, machine.processes)
        labelled = [q for q in questions or [] if q.answer is not None]
        pool = labelled if phase.objective == "labels" else questions
        unlabelled = len(questions) - len(labelled) if questions else 0
        counted = tokens.phase_tokens(recipe, number, phase, lengths, len(pool) if pool else None, unlabelled)
        usage = memory.training(models, recipe, phase, machine, rows, passes)
        taken = phase_disk(
            recipe,
            counted,
            lengths,
            weights=shapes[0].total,
            trained=learn,
            adapters=everything - shapes[0].total,
            vocabulary=built[0].vocabulary,
            tokenizer_bytes=_processor_bytes(sources[0]),
        )
        first = rounded_from(recipe, number)
        rounded = 0.0 if first is None else 1 - first / phase.steps
        held_out = recipe.data.held_out
        spent = rates.seconds(known, counted, response, held_out, machine.processes, rounded) if known else {}
        flops = tokens.flops(recipe, phase, counted, lengths, work[0], work[1:])
        phases.append(PlannedPhase(counted, usage, rows, passes, flops, taken, spent))
    run_dir = runs.folder_of(recipe, recipe_path)
    made = Plan(
        recipe_path=recipe_path,
        machine=machine,
        student=shapes[0],
        teachers=shapes[1:],
        trained_parameters=learn,
        lengths=lengths,
        responses=responses,
        phases=phases,
        free_disk_bytes=shutil.disk_usage(next(p for p in (run_dir, *run_dir.absolute().parents) if p.exists())).free,
        run_dir=run_dir,
        rates=known,
        assumed=assumed,
        warnings=[],
    )
    made.warnings.extend(cures.warnings(made, models, recipe))
    return made


def _machine(asked: PlanOptions) -> Machine:
    import psutil
    import torch

    gpu = bool(asked.gpus or asked.gpu_bytes or torch.cuda.is_available())
    size = asked.gpu_bytes
    if size is None and torch.cuda.is_available():
        size = torch.cuda.get_device_properties(0).total_memory
    if size is None:
        size = 80 << 30 if gpu else psutil.virtual_memory().total
    return Machine(asked.gpus or 1, asked.sharding, gpu, size)


def _configs(asked: PlanOptions, recipe: Recipe, sources: list[str]) -> dict[str, str]:
    """`--config-of` by the name that the recipe has, or by the folder it stands for."""
    names = dict(zip((recipe.student, *recipe.teachers), sources))
    for name in asked.configs:
        if name not in names and name not in sources:
            raise UserError(f"--config-of {name}: the recipe has no such model; it has {', '.join(names)}")
    return {names.get(name, name): config for name, config in asked.configs.items()}


def _questions(recipe: Recipe, recipe_path: Path) -> tuple[list[Any] | None, list[str]]:
    """The training questions as `distill` takes them, and what was left out; none, which is said, where the data
    aren't here. Data that are here and wrong are an error, as they would be for `distill`."""
    try:
        found = read_questions(recipe, recipe_path)
    except Unavailable as error:
        missing = f"data: {str(error).partition(';')[0]}, so no question is taken to come twice in a stage"
        return None, [missing]
    return found.train, [f"data: {note}" for note in found.left_out.notes]


def _processor_bytes(source: str) -> int | None:
    folder = Path(source)
    if not (folder / "tokenizer.json").exists():
        return None
    return sum(f.stat().st_size for f in folder.iterdir() if f.suffix in (".json", ".jinja", ".txt"))
