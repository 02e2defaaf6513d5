"""How many tokens a recipe generates, scores and trains, phase by phase and stage by stage, and the FLOPs they take.

Counts of questions and responses are exact; tokens are exact for given lengths. With `max_new_tokens` as the length of
every response they are upper bounds: responses end earlier, and identical ones are scored and trained once.
"""

from dataclasses import dataclass
from typing import Any

from masters_edge.plan.shapes import Shape
from masters_edge.recipe import Phase, Recipe, schedule
from masters_edge.recipe.stages import five_stages
from masters_edge.training import needs_reference, needs_teacher


@dataclass(frozen=True)
class Lengths:
    """Tokens on average: a prompt of the student and of each teacher, a distinct response, a response as drawn
    (`drawn`); and how many distinct responses a question has (`distinct`)."""

    student_prompt: float
    teacher_prompts: tuple[float, ...]
    response: float
    distinct: float
    drawn: float

    def row(self, prompt: float) -> float:
        """Tokens of a question's row: the prompt and every distinct response without its last token."""
        return prompt + self.distinct * (self.response - 1)


@dataclass(frozen=True)
class StageTokens:
    """One stage. `asked`: distinct questions that get responses; `visits`: questions trained, repeats counted.

    `generated_*`: tokens of all responses asked for; `scored_*` and `trained_*`: tokens of rows that go through a model
    forward (scoring) and forward and backward (training; teacher and reference forward alone).
    """

    teacher: int
    ratio: float
    asked: int
    visits: int
    student_responses: int
    teacher_responses: int
    generated_student: float
    generated_teacher: float
    scored_student: float
    scored_teacher: float
    trained_student: float
    trained_teacher: float
    trained_reference: float
    trained_response: float


@dataclass(frozen=True)
class PhaseTokens:
    """One phase: its stages (a `labels` phase counts as one), and how often held-out questions are asked."""

    number: int
    objective: str
    steps: int
    stages: list[StageTokens]
    labelled_by_teacher: int
    evaluations: int

    def sum(self, name: str) -> float:
        """Over all stages."""
        return sum(getattr(stage, name) for stage in self.stages)


def phase_tokens(
    recipe: Recipe, number: int, phase: Phase, lengths: Lengths, pool: int | None, unlabelled: int = 0
) -> PhaseTokens:
    """Tokens of one phase.

    Args:
        recipe: counts of responses, questions per step.
        number: place of the phase, which its order of questions follows from.
        phase: the phase.
        lengths: what a prompt and a response count.
        pool: training questions there are (labelled ones for a `labels` phase); None where nobody knows: then no
            question is taken to come twice in a stage.
        unlabelled: training questions without a label, for the teacher's own answers.
    """
    options, per_step = recipe.responses, schedule.questions_per_step(recipe, phase)
    order = schedule.visits(pool, phase.steps, per_step, recipe.seed * 1000 + number) if pool else None
    chain = [five_stages(1.0)] * len(recipe.teachers) if recipe.mask.r_max == "auto" else None
    stages = schedule.stages(recipe, phase, chain) or [schedule.Stage(0, 0, 0.0, 0, phase.steps)]
    labels, found = phase.objective == "labels", []
    for stage in stages:
        visits = (stage.last - stage.first) * per_step
        asked = visits if order is None else len(set(order[stage.first : stage.last].flat))
        asked = 0 if labels else asked
        prompt = lengths.teacher_prompts[stage.teacher]
        student_row = lengths.student_prompt + lengths.response - 1 if labels else lengths.row(lengths.student_prompt)
        runs = needs_teacher(recipe, phase)
        found.append(
            StageTokens(
                teacher=stage.teacher,
                ratio=stage.ratio,
                asked=asked,
                visits=visits,
                student_responses=asked * options.student,
                teacher_responses=asked * options.teacher,
                generated_student=asked * options.student * lengths.drawn,
                generated_teacher=asked * options.teacher * lengths.drawn,
                scored_student=asked * lengths.row(lengths.student_prompt),
                scored_teacher=asked * lengths.row(prompt),
                trained_student=visits * student_row,
                trained_teacher=visits * lengths.row(prompt) if runs else 0,
                trained_reference=visits * student_row if needs_reference(recipe, phase) else 0,
                trained_response=visits * lengths.response * (1 if labels else lengths.distinct),
            )
        )
    teacher_labels = phase.objective in ("joint", "reward") and recipe.reward.accuracy
    answers = unlabelled if teacher_labels and recipe.reward.unlabelled == "teacher" else 0
    if pool and answers and order is not None:  # a share of the visited ones; which are unlabelled is drawn evenly
        answers = round(unlabelled * len(set(order.flat)) / pool)
    evaluations = 0
    if recipe.data.held_out:
        every = recipe.train.eval_every
        evaluations = 1 + phase.steps // every + (phase.steps % every > 0)
    return PhaseTokens(number, phase.objective, phase.steps, found, answers, evaluations)


@dataclass(frozen=True)
class Work:
    """FLOPs of one forward pass: 2 per parameter and token (embeddings looked up, not multiplied), and attention's
    4 x layers x heads x head size per pair of tokens; the block mask hides pairs but spares no work."""

    decoder: float
    pair: float
    vision: float
    head: float

    @classmethod
    def of(cls, shape: Shape, image: dict[str, Any]) -> "Work":
        """`image`: one image as the model takes it."""
        text, parts = shape.config.get_text_config(), shape.parameters
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        vision = shape.config.vision_config
        layers = getattr(vision, "num_hidden_layers", None) or vision.depth
        patches, together = _patches(shape, image)
        merged = shape.family.image_tokens(shape.config, image)
        encoder = 2 * parts["vision"] * patches + 4 * layers * vision.hidden_size * patches * together
        head = 2 * text.vocab_size * text.hidden_size
        pair = 4 * text.num_hidden_layers * text.num_attention_heads * size
        return cls(2 * parts["decoder"], pair, encoder + 2 * parts["connector"] * merged, head)

    def forward(self, rows: float, length: float, predicted: float) -> float:
        """FLOPs of `rows` rows of `length` tokens with one image each, `predicted` tokens through the head."""
        return rows * (self.decoder * length + self.pair * length**2 + self.vision) + predicted * self.head


def _patches(shape: Shape, image: dict[str, Any]) -> tuple[int, float]:
    """Patches of an image, and how many of them see each other, as a mean over layers."""
    pixels, vision = image["pixel_values"], shape.config.vision_config
    if pixels.ndim == 2:
        patches, window = pixels.shape[0], getattr(vision, "window_size", None)
        if window is None:
            return patches, patches
        whole = len(vision.fullatt_block_indexes) / vision.depth  # Qwen2.5-VL: the other layers see windows
        return patches, whole * patches + (1 - whole) * min(patches, (window // vision.patch_size) ** 2)
    patch = vision.patch_size
    high, wide = patch if isinstance(patch, (list, tuple)) else (patch, patch)
    tile = (pixels.shape[-2] // high) * (pixels.shape[-1] // wide)
    return tile * pixels.numel() // (3 * pixels.shape[-1] * pixels.shape[-2]), tile


def flops(
    recipe: Recipe, phase: Phase, counted: PhaseTokens, lengths: Lengths, student: Work, teachers: list[Work]
) -> dict[str, float]:
    """FLOPs of generating, scoring and training a phase.

    Training takes 3 forward passes' worth (4 with gradient checkpointing, 2 and 3 for adapters, whose frozen weights
    need no gradient). Generating runs prompt and response of every sequence once, the KV cache sparing the rest.
    """
    train = recipe.train
    times = (2 if train.lora else 3) + train.gradient_checkpointing
    labels = phase.objective == "labels"
    found = {"generate": 0.0, "score": 0.0, "train": 0.0}
    for stage in counted.stages:
        teacher, prompt = teachers[stage.teacher], lengths.teacher_prompts[stage.teacher]
        for work, count, length in (
            (student, stage.student_responses, lengths.student_prompt + lengths.drawn),
            (teacher, stage.teacher_responses, prompt + lengths.drawn),
        ):
            causal = work.pair * length**2 / 2  # a query sees what came before it alone
            found["generate"] += count * (work.decoder * length + causal + work.head * lengths.drawn)
        found["generate"] += stage.asked * (
            student.vision * (recipe.responses.student > 0) + teacher.vision * (recipe.responses.teacher > 0)
        )
        answered = stage.asked * lengths.distinct * lengths.response
        ours = lengths.student_prompt + lengths.response - 1 if labels else lengths.row(lengths.student_prompt)
        found["score"] += student.forward(stage.asked, ours, answered)
        found["score"] += teacher.forward(stage.asked, lengths.row(prompt), answered)
        found["train"] += times * student.forward(stage.visits, ours, stage.trained_response)
        if stage.trained_teacher:
            found["train"] += teacher.forward(stage.visits, lengths.row(prompt), stage.trained_response)
        if stage.trained_reference:
            found["train"] += student.forward(stage.visits, ours, stage.trained_response)
    return found
