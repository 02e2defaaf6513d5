"""One training step and one scoring pass on shapes: what is alive at which moment.

The calls are those of training/trainer.py and responses/generate.py, in their order; test_memory.py holds the figures
against the real thing.
"""

import contextlib
import copy
from collections import Counter
from typing import Any, Literal

import torch

from masters_edge.objective import chunked, sequences
from masters_edge.objective.divergence import TopLogProbs, jsd, log_softmax
from masters_edge.objective.terms import LogitsOf, Objective, Tokens
from masters_edge.plan.prompts import Prompt, plain_token
from masters_edge.plan.shapes import Shape
from masters_edge.plan.trace import Device, Memory
from masters_edge.recipe import Phase, Recipe
from masters_edge.training import needs_reference, separate_reference, trainable

Gradients = Literal["fresh", "kept", "dropped"]
Moments = dict[str, Counter[str]]
_TRACED_ROWS = (2, 4)  # memory is a constant plus so much per row; larger batches follow from these two


def trained_model(shape: Shape, recipe: Recipe) -> Any:
    """The student as it is trained: float32, adapters and what is frozen as the recipe says, on the meta device."""
    student = trainable(copy.deepcopy(shape.model).float(), recipe)
    return student.train()


def training(
    shape: Shape,
    teacher: Shape | None,
    prompts: tuple[Prompt, Prompt | None],
    recipe: Recipe,
    phase: Phase,
    rows: int,
    responses: tuple[int, int],
    *,
    gradients: Gradients,
    gpu: bool,
) -> Moments:
    """What is alive, in bytes by what it is, at the fullest moment of each part of a step.

    Args:
        shape: the student.
        teacher: the teacher, where one runs beside the student.
        prompts: the student's and the teacher's.
        recipe: number format, objective, adapters, checkpointing.
        phase: its objective.
        rows: questions in one forward pass.
        responses: responses per question, and tokens of each.
        gradients: made in the step, kept from an earlier pass of the same step, or cut up as soon as they are made.
        gpu: attention as on a GPU.
    """
    if rows > _TRACED_ROWS[1]:
        few, more = (
            training(shape, teacher, prompts, recipe, phase, n, responses, gradients=gradients, gpu=gpu)
            for n in _TRACED_ROWS
        )
        return _extended(few, more, rows)
    student = trained_model(shape, recipe)
    reference = None
    if separate_reference(recipe, phase):
        reference = copy.deepcopy(student).requires_grad_(False).eval()
    memory = Memory()
    device = Device(memory, autocast=recipe.train.precision == "bf16", gpu=gpu)
    for parameter in student.parameters():
        if parameter.requires_grad:
            if gradients == "kept":
                parameter.grad = torch.empty_like(parameter)
            parameter.register_post_accumulate_grad_hook(_hook(memory, gradients))
    if recipe.train.gradient_checkpointing:
        _checkpointing(student, device)
    with memory, device.asked(), device:
        _step(memory, device, student, shape, teacher, reference, prompts, recipe, phase, rows, responses)
    return memory.peaks


def _checkpointing(student: Any, device: Device) -> None:
    """As the Trainer switches it on; a function mode is off inside the backward pass that it heard of."""
    name = "activation_checkpointing_enable"  # transformers 5.2x renamed it
    enable = getattr(student, name if hasattr(type(student), name) else "gradient_checkpointing_enable")
    enable({"use_reentrant": False, "context_fn": lambda: (contextlib.nullcontext(), device)})


def _step(
    memory: Memory,
    device: Device,
    student: Any,
    shape: Shape,
    teacher: Shape | None,
    reference: Any,
    prompts: tuple[Prompt, Prompt | None],
    recipe: Recipe,
    phase: Phase,
    rows: int,
    responses: tuple[int, int],
) -> None:
    plain = student.get_base_model() if recipe.train.lora else student
    tokens, vocabulary = rows * responses[0] * responses[1], prompts[0].vocabulary
    with memory.section("inputs"):
        batch = _batch(shape, prompts[0], rows, responses)
        known = Tokens(
            torch.full((tokens,), plain_token(shape)),
            torch.full((tokens,), 1 / tokens),
            torch.ones(tokens),
            torch.zeros(tokens),
        )
        theirs = _batch(teacher, prompts[1], rows, responses) if teacher and prompts[1] else None
    of_teacher: LogitsOf | TopLogProbs | None = None
    of_reference: LogitsOf | None = None
    with memory.section("teacher"):
        if teacher is not None and theirs is not None:
            of_teacher = _frozen(teacher.model, teacher, theirs, vocabulary)
        elif phase.objective in ("joint", "distill"):
            of_teacher = _stored(tokens, min(recipe.train.teacher_top_k, vocabulary))
    with memory.section("reference"):
        if reference is not None:
            of_reference = _frozen(reference, shape, batch, vocabulary)
        elif needs_reference(recipe, phase):
            with student.disable_adapter():
                of_reference = _frozen(plain, shape, batch, vocabulary)
    with memory.section("activations"):
        hidden = sequences.response_hidden(plain, shape.family, batch)
    with memory.section("logits"):
        objective = Objective(phase, recipe.reward, known, of_teacher, of_reference)
        loss, _ = chunked.loss(hidden, chunked.Head.of(plain), vocabulary, objective)
    del hidden, objective, of_teacher, of_reference
    device.end_of_pass()
    with memory.section("backward"):
        loss.backward()


def scoring(
    shape: Shape,
    teacher: Shape,
    prompts: tuple[Prompt, Prompt],
    rows: int,
    responses: tuple[int, int],
    *,
    gpu: bool,
) -> Moments:
    """As `training`, of the forward passes that score responses before it; both models keep their number format."""
    if rows > _TRACED_ROWS[1]:
        few, more = (scoring(shape, teacher, prompts, n, responses, gpu=gpu) for n in _TRACED_ROWS)
        return _extended(few, more, rows)
    student = copy.deepcopy(shape.model).float()
    vocabulary, memory = prompts[0].vocabulary, Memory()
    device = Device(memory, autocast=False, gpu=gpu)
    with memory, device.asked(), device, torch.no_grad():
        with memory.section("activations"):
            hidden = [
                sequences.response_hidden(model, of.family, _batch(of, prompt, rows, responses))
                for model, of, prompt in ((student, shape, prompts[0]), (teacher.model, teacher, prompts[1]))
            ]
        with memory.section("logits"):
            for part in chunked.chunks(len(hidden[0]), vocabulary):
                ours = chunked.chunk_logits(hidden[0][part], chunked.Head.of(student), vocabulary)
                theirs = chunked.chunk_logits(hidden[1][part], chunked.Head.of(teacher.model), vocabulary)
                jsd(theirs, ours), log_softmax(ours)
    return memory.peaks


def logits_alive(recipe: Recipe, phase: Phase) -> float:
    """How many tensors as large as a chunk's logits in float32 there are at once: of a head so narrow that all else is
    nothing beside them."""
    vocabulary, tokens, memory = 1 << 14, chunked.CHUNK_LOGITS >> 14, Memory()
    with torch.device("meta"):
        hidden, weight = torch.empty(tokens, 1, requires_grad=True), torch.nn.Parameter(torch.empty(vocabulary, 1))
        frozen = torch.empty(tokens, vocabulary)
    device = Device(memory, autocast=recipe.train.precision == "bf16", gpu=False)
    with memory, device.asked(), device:
        known = Tokens(*(torch.ones(tokens, dtype=kind) for kind in (torch.long, *[torch.float] * 3)))
        theirs = _stored(tokens, recipe.train.teacher_top_k)

        def logits(part: slice) -> torch.Tensor:
            return frozen[part].bfloat16() if recipe.train.precision == "bf16" else frozen[part].clone()

        teacher = theirs if recipe.train.teacher_logits == "cached" else logits
        reference = logits if needs_reference(recipe, phase) else None
        with memory.section("logits"):
            objective = Objective(phase, recipe.reward, known, teacher, reference)
            chunked.loss(hidden, chunked.Head(weight), vocabulary, objective)
    return memory.peaks["logits"]["logits"] / (4 * chunked.CHUNK_LOGITS)


def _batch(shape: Shape, prompt: Prompt, rows: int, responses: tuple[int, int]) -> Any:
    count, length = responses
    token = plain_token(shape)
    owner = [question for question in range(rows) for _ in range(count)]
    return sequences.pack([prompt.ids] * rows, [prompt.image] * rows, [[token] * length] * len(owner), owner, token)


def _frozen(model: Any, shape: Shape, batch: Any, vocabulary: int) -> LogitsOf:
    with torch.no_grad():
        hidden = sequences.response_hidden(model, shape.family, batch)

    def logits(part: slice) -> torch.Tensor:
        with torch.no_grad():
            return chunked.chunk_logits(hidden[part], chunked.Head.of(model), vocabulary)

    return logits


def _stored(tokens: int, k: int) -> TopLogProbs:
    ids = torch.arange(k).expand(tokens, k).contiguous()
    return TopLogProbs(ids, torch.zeros(tokens, k), torch.zeros(tokens))


def _hook(memory: Memory, gradients: Gradients) -> Any:
    def after(parameter: torch.Tensor) -> None:
        if gradients == "dropped":
            parameter.grad = None
        elif gradients == "fresh" and parameter.grad is not None:
            memory.rename(parameter.grad, "gradients")

    return after


def _extended(few: Moments, more: Moments, rows: int) -> Moments:
    """Linear in rows, through the two that were traced."""
    first, second = _TRACED_ROWS
    share = (rows - first) / (second - first)
    return {
        moment: Counter(
            {
                name: max(0, round(few[moment][name] + share * (more[moment][name] - few[moment][name])))
                for name in {*few[moment], *more[moment]}
            }
        )
        for moment in more
    }
