"""Memory of one process, part by part, at the fullest moment of making responses and of training.

What stays (bytes per parameter, with its source):

- student weights: 4, float32 (distill.py); ZeRO-3 with bf16: 2 and a float32 master of 4 per trained one
  (deepspeed/runtime/zero/stage3.py). Low-rank adapters come on top.
- AdamW: 8 per trained parameter, two float32 moments (torch/optim/adamw.py).
- gradients: 4 per trained parameter, float32 like the weights. During the step itself AdamW holds a list of square
  roots beside them on a GPU (4 more; torch/optim/adam.py, `_multi_tensor_adam`), two temporaries of the largest tensor
  on a CPU.
- reference: 4, a copy of the student, where the paper's policy term needs one and there are no adapters.
- teacher: the bytes of its checkpoint, and r_max of its maskable weights a second time (masking.py) unless cut up.
- DDP: 4 per trained parameter for its buckets (torch/nn/parallel/distributed.py, gradient_as_bucket_view=False).

Everything else is what `step.py` finds alive. FSDP2 and ZeRO-3 divide what stays by the processes; what they gather at
a time is counted as everything outside the layers and two layers (one in use, one on its way), in the number format of
the forward pass; with ZeRO-3 at least its `stage3_max_live_parameters` of 1e9, or the whole model if it is smaller.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from masters_edge.plan import step
from masters_edge.plan.prompts import Prompt
from masters_edge.plan.shapes import Shape
from masters_edge.recipe import Phase, Recipe
from masters_edge.teacher.masking import dropped_count, maskable
from masters_edge.training import needs_teacher, separate_reference

Sharding = Literal["none", "fsdp2", "zero3"]
LIBRARIES = 600 << 20  # bytes that CUDA and its libraries take in each process; an assumption
AUTO_R_MAX = 0.4  # where r_max is still to be measured
_LIVE = 10**9  # parameters; DeepSpeed's default of stage3_max_live_parameters


@dataclass(frozen=True)
class Machine:
    """What it runs on: processes, how models are cut up over them, and whether they have a GPU each.

    `gpu_bytes`: memory of one GPU, or of the machine.
    """

    processes: int
    sharding: Sharding
    gpu: bool
    gpu_bytes: int


@dataclass(frozen=True)
class Usage:
    """One process at its fullest: bytes by part. `moment` says when; `logits_alive` how many tensors of a chunk's
    logits there are at once."""

    doing: str
    moment: str
    parts: dict[str, int]
    logits_alive: float | None = None

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def largest(self) -> str:
        return max(self.parts, key=self.parts.__getitem__)


@dataclass(frozen=True)
class Models:
    """The student, the chain of teachers, and the prompts of each."""

    student: Shape
    teachers: list[Shape]
    student_prompt: Prompt
    teacher_prompts: list[Prompt]

    @property
    def heaviest(self) -> int:
        """Place of the teacher with most bytes."""
        return max(range(len(self.teachers)), key=lambda place: weight_bytes(self.teachers[place]))


def weight_bytes(shape: Shape) -> int:
    """Bytes of the checkpoint's weights in memory."""
    return shape.total * shape.dtype.itemsize


def set_aside_bytes(shape: Shape, recipe: Recipe) -> int:
    """Values that masking.MaskedTeacher holds a second time."""
    mask = recipe.mask
    r_max = AUTO_R_MAX if mask.r_max == "auto" else mask.r_max
    tensors = maskable(shape.model, mask.include, mask.exclude).values()
    return sum(dropped_count(t.numel(), r_max) * t.element_size() for t in tensors)


def responses(models: Models, recipe: Recipe, machine: Machine) -> Usage:
    """While responses are made and scored: student and teacher whole in every process, whatever cuts them up later.

    Beside both: the KV cache of a batch and the scores of its next tokens (float64 copies, sorted: 60 bytes an entry,
    responses/sampling.py), or the forward passes that score.
    """
    place, options = models.heaviest, recipe.responses
    teacher, group = models.teachers[place], options.student + options.teacher
    stays = {
        "student weights": 4 * models.student.total,
        "teacher weights": weight_bytes(teacher),
        "values set aside": set_aside_bytes(teacher, recipe),
    }
    if machine.gpu:
        stays["CUDA and libraries"] = LIBRARIES
    prompts = (models.student_prompt, models.teacher_prompts[place])
    rows = max(1, options.batch_size // group)
    sizes = (group, options.max_new_tokens)
    scored = step.scoring(models.student, teacher, prompts, rows, sizes, gpu=machine.gpu)
    fullest: Counter[str] = max(scored.values(), key=lambda peak: sum(peak.values()))
    moments: dict[str, dict[str, int]] = {"scoring": dict(fullest)}
    for name, shape, prompt, count, size in (
        ("student", models.student, prompts[0], options.student, 4),
        ("teacher", teacher, prompts[1], options.teacher, teacher.dtype.itemsize),
    ):
        if count:
            moments[f"the {name} answering"] = {
                "KV cache": kv_cache_bytes(shape, options.batch_size, prompt.longest + options.max_new_tokens, size),
                "next tokens": 60 * options.batch_size * shape.vocabulary,
            }
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    return Usage("responses", moment, _named(stays | moments[moment]))


def kv_cache_bytes(shape: Shape, rows: int, length: int, itemsize: int) -> int:
    """Keys and values of every decoder layer, `[rows, kv heads, length, head size]` each."""
    text = shape.config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * rows * text.num_key_value_heads * length * head * itemsize


def training(models: Models, recipe: Recipe, phase: Phase, machine: Machine, rows: int, passes: int) -> Usage:
    """While a phase trains.

    Args:
        models: shapes and prompts.
        recipe: everything else.
        phase: the phase.
        machine: how many processes, and how models are cut up.
        rows: questions in one forward pass of one process.
        passes: forward passes accumulated for a step.
    """
    student = step.trained_model(models.student, recipe)
    weights = sum(p.numel() for p in student.parameters())
    trained = [p.numel() for p in student.parameters() if p.requires_grad]
    cut = machine.sharding != "none"
    teacher = models.teachers[models.heaviest] if needs_teacher(recipe, phase) else None
    prompt = models.teacher_prompts[models.heaviest] if teacher else None
    reference = separate_reference(recipe, phase)
    forward = 2 if recipe.train.precision == "bf16" else 4
    zero_bf16 = machine.sharding == "zero3" and forward == 2
    stays = {
        "student weights": 2 * weights + 4 * sum(trained) if zero_bf16 else 4 * weights,
        "AdamW": 8 * sum(trained),
        "reference weights": (2 if zero_bf16 else 4) * weights if reference else 0,
        "teacher weights": weight_bytes(teacher) if teacher else 0,
    }
    all_gradients = 4 * sum(trained)
    if cut:
        stays = {name: -(-size // machine.processes) for name, size in stays.items()}
        all_gradients = -(-all_gradients // machine.processes)
        stays["gathered layers"] = gathered_bytes(models.student, forward, machine)
        stays["gathered layers"] += gathered_bytes(models.student, forward, machine) if reference else 0
        stays["gathered layers"] += gathered_bytes(teacher, teacher.dtype.itemsize, machine) if teacher else 0
    else:
        stays["values set aside"] = set_aside_bytes(teacher, recipe) if teacher else 0
        stays["DDP buckets"] = 4 * sum(trained) if machine.processes > 1 else 0
    if machine.gpu:
        stays["CUDA and libraries"] = LIBRARIES
    labels = phase.objective == "labels"
    group = 1 if labels else recipe.responses.student + recipe.responses.teacher
    kind: step.Gradients = "dropped" if cut else "kept" if passes > 1 else "fresh"
    found = step.training(
        models.student,
        teacher,
        (models.student_prompt, prompt),
        recipe,
        phase,
        rows,
        (group, recipe.responses.max_new_tokens),
        gradients=kind,
        gpu=machine.gpu,
    )
    moments: dict[str, Counter[str]] = {}
    for name, peak in found.items():
        moments[_MOMENTS[name]] = Counter(peak)
        if cut:  # layers are gathered in the forward pass's number format and let go, not copied once and kept
            del moments[_MOMENTS[name]]["bf16 copies"]
        if kind == "kept" or (kind == "dropped" and (passes > 1 or name == "backward")):
            moments[_MOMENTS[name]]["gradients"] += all_gradients
    extra = all_gradients if machine.gpu else 8 * max(trained)
    moments["optimizer's step"] = Counter({"gradients": all_gradients, "AdamW's own copies": extra})
    if recipe.data.held_out:
        # The whole student is put together for them; what training gathers is part of it.
        options = recipe.responses
        whole = max(0, forward * weights - gathered_bytes(models.student, forward, machine)) if cut else 0
        length = models.student_prompt.longest + options.max_new_tokens
        moments["held-out questions"] = Counter(
            {
                "KV cache": kv_cache_bytes(models.student, options.batch_size, length, forward),
                "next tokens": 12 * options.batch_size * models.student.vocabulary,
                "gathered layers": whole,
            }
        )
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    return Usage("training", moment, _named(Counter(stays) + moments[moment]), step.logits_alive(recipe, phase))


def gathered_bytes(shape: Shape, itemsize: int, machine: Machine) -> int:
    """What a cut-up model has in one piece at a time; see the module's docstring."""
    blocks = shape.blocks()
    outside = shape.total - sum(blocks)
    count = outside + 2 * max(blocks, default=0)
    if machine.sharding == "zero3":
        count = max(count, min(shape.total, _LIVE))
    return count * itemsize


_MOMENTS = {
    "other": "start",
    "inputs": "start",
    "teacher": "teacher's forward pass",
    "reference": "reference's forward pass",
    "activations": "student's forward pass",
    "logits": "loss",
    "backward": "backward pass",
}
_NAMES = {
    "teacher": "teacher's hidden states",
    "reference": "reference's hidden states",
    "logits": "logits in chunks",
    "backward": "backward's own",
    "bf16 copies": "bf16 copies of weights",
}


def _named(parts: "dict[str, int] | Counter[str]") -> dict[str, int]:
    named = ((_NAMES.get(name, name), size) for name, size in parts.items() if size > 0)
    return dict(sorted(named, key=lambda pair: -pair[1]))
