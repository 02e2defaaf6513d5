"""What to say where a plan doesn't fit: the largest part, and the cheapest change of the recipe that makes it fit."""

from typing import Any

from masters_edge.plan import memory
from masters_edge.plan.memory import Machine, Models, Usage
from masters_edge.plan.planned import Plan
from masters_edge.recipe import Phase, Recipe
from masters_edge.recipe.schema import Lora
from masters_edge.training.setup import questions_per_device

_OF_TEACHER = ("teacher weights", "values set aside", "teacher's hidden states")
_OF_PASS = ("activations", "attention masks", "backward's own", "bf16 copies of weights", "logits in chunks")
_OF_WEIGHTS = ("student weights", "AdamW", "AdamW's own copies", "gradients", "reference weights", "DDP buckets")
# From the cheapest: what it costs grows from left to right.
_CURES = (
    "train.gradient_checkpointing=true",
    "train.questions_per_device=1",
    "train.teacher_logits=cached",
    "train.lora={}",
)


def warnings(plan: Plan, models: Models, recipe: Recipe) -> list[str]:
    """One sentence for each thing that doesn't fit."""
    found = []
    machine = plan.machine
    if plan.responses is not None and plan.responses.total > machine.gpu_bytes:
        found.append(_of_responses(plan.responses, machine))
    for planned, phase in zip(plan.phases, recipe.train.phases):
        if planned.training.total > machine.gpu_bytes:
            found.append(_of_training(planned.training, models, recipe, phase, machine))
    if plan.disk_bytes > plan.free_disk_bytes:
        found.append(
            f"{plan.run_dir} needs {gib(plan.disk_bytes)} of disk, but {gib(plan.free_disk_bytes)} are free; set "
            "run_dir to a larger disk"
        )
    return found


def gib(size: float) -> str:
    """Bytes for a sentence."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:,.1f} MiB"


def _short(usage: Usage, machine: Machine) -> str:
    largest = usage.largest
    return (
        f"need {gib(usage.total)} in each process, but there are {gib(machine.gpu_bytes)}; the largest part is "
        f"{largest} with {gib(usage.parts[largest])}"
    )


def _of_responses(usage: Usage, machine: Machine) -> str:
    weights = sum(usage.parts.get(n, 0) for n in ("student weights", "teacher weights", "values set aside"))
    if weights < machine.gpu_bytes and usage.total - weights > machine.gpu_bytes / 20:
        remedy = "make responses.batch_size smaller"
    else:
        remedy = (
            "every process answers with a whole student and a whole teacher, however they are cut up later: make the "
            f"responses where a GPU has {gib(usage.total)} (masters-edge generate), or take a smaller teacher"
        )
    return f"responses {_short(usage, machine)}; {remedy}"


def _of_training(usage: Usage, models: Models, recipe: Recipe, phase: Phase, machine: Machine) -> str:
    """Adds one change after another, each against what is then largest, until it fits."""
    said: list[str] = []
    changed, now = recipe, usage
    while now.total > machine.gpu_bytes:
        cure = _next(now, changed, said, phase)
        if cure is None:
            break
        said.append(cure)
        changed = _with(changed, cure)
        rows, passes = questions_per_device(changed, phase, machine.processes)
        now = memory.training(models, changed, phase, machine, rows, passes)
    start = f"phase `{phase.objective}` would {_short(usage, machine)}"
    if now.total <= machine.gpu_bytes:
        return f"{start}; with {' '.join(said)} it takes {gib(now.total)}"
    tried = f"even {' '.join(said)} leave {gib(now.total)}; " if said else ""
    more = "take more or larger GPUs" if machine.sharding != "none" else "cut the models up: --gpus 8 --shard fsdp2"
    return f"{start}; {tried}{more}"


def _next(usage: Usage, recipe: Recipe, said: list[str], phase: Phase) -> str | None:
    possible = [cure for cure in _CURES if cure not in said and _applies(cure, recipe, phase)]
    largest = sorted(usage.parts, key=lambda part: -usage.parts[part])
    for part in largest:
        wanted = _CURES[:2] if part in _OF_PASS else _CURES[2:3] if part in _OF_TEACHER else ()
        wanted = _CURES[3:] if part in _OF_WEIGHTS else wanted
        for cure in wanted:
            if cure in possible:
                return cure
    return None


def _applies(cure: str, recipe: Recipe, phase: Phase) -> bool:
    train = recipe.train
    if cure == _CURES[0]:
        return not train.gradient_checkpointing
    if cure == _CURES[1]:
        return train.questions_per_device != 1 and train.questions_per_step > 1
    if cure == _CURES[2]:
        return train.teacher_logits == "live" and phase.objective in ("joint", "distill")
    return train.lora is None


def _with(recipe: Recipe, cure: str) -> Recipe:
    changes: dict[str, dict[str, Any]] = {
        _CURES[0]: {"gradient_checkpointing": True},
        _CURES[1]: {"questions_per_device": 1},
        _CURES[2]: {"teacher_logits": "cached"},
        _CURES[3]: {"lora": Lora()},
    }
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=changes[cure])})
