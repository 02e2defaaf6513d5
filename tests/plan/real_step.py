"""A child process: real weights, the real Trainer, a few steps; prints the peak of its memory.

    python -m tests.plan.real_step '{"student": "config.json", "teacher": "config.json", "recipe": {...}, "rows": 2}'

What the libraries take is there before: a tiny training of the same kind runs first.
"""

import copy
import gc
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import torch

from masters_edge import training
from masters_edge.objective import sequences
from masters_edge.objective.divergence import TopLogProbs
from masters_edge.plan import prompts
from masters_edge.plan.shapes import shape
from masters_edge.recipe import Recipe
from masters_edge.teacher.masking import MaskedTeacher

PICTURE = (384, 256)  # pixels: enough for rows of some length


def config(family: str, hidden: int, layers: int, vocabulary: int) -> dict[str, Any]:
    """A decoder of that shape and a small vision encoder, as a config.json."""
    text = dict(
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 128),
        head_dim=64,
        vocab_size=vocabulary,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    if family == "smolvlm":
        vision = dict(hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4)
        return dict(
            model_type="smolvlm",
            image_token_id=3,
            scale_factor=2,
            pad_token_id=0,
            tie_word_embeddings=True,
            vision_config=vision | dict(image_size=64, patch_size=16),
            text_config=text | dict(model_type="llama"),
        )
    rope = dict(rope_type="default", rope_theta=1e4, mrope_section=[16, 8, 8], mrope_interleaved=True)
    vision = dict(hidden_size=128, intermediate_size=512, num_heads=4, out_hidden_size=hidden, patch_size=16)
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return dict(
        model_type="qwen3_vl",
        tie_word_embeddings=True,
        text_config=text | dict(rope_parameters=rope),
        vision_config=vision | dict(depth=3, deepstack_visual_indexes=[0, 1], num_position_embeddings=256),
        **{name: 3 + place for place, name in enumerate(names)},
    )


class Batches:
    """Stands where Collator does: rows of given lengths."""

    def __init__(self, models: list[Any], built: list[prompts.Prompt], recipe: Recipe) -> None:
        self.models, self.built, self.recipe = models, built, recipe

    def __call__(self, items: list[int]) -> dict[str, Any]:
        rows = len(items)
        options = self.recipe.responses
        group, length = options.student + options.teacher, options.max_new_tokens
        owner = [question for question in range(rows) for _ in range(group)]
        random = torch.Generator().manual_seed(0)
        responses = torch.randint(10, self.built[0].vocabulary, (len(owner), length), generator=random).tolist()
        packed = [sequences.pack([p.ids] * rows, [p.image] * rows, responses, owner, 0) for p in self.built]
        tokens = len(owner) * length
        batch = {
            "student": packed[0],
            "ids": torch.tensor(responses).flatten(),
            "weights": torch.full((tokens,), 1 / tokens),
            "stage": (0, 0, 0.2),
            "advantages": torch.randn(tokens, generator=random),
            "initial_log_probs": torch.zeros(tokens),
        }
        if self.recipe.train.teacher_logits == "cached":
            top = TopLogProbs.of(torch.randn(tokens, self.built[0].vocabulary), self.recipe.train.teacher_top_k)
            return batch | {"top_ids": top.ids, "top_log_probs": top.log_probs, "rest": top.rest}
        return batch | {"teacher": packed[1]}


def train(spec: dict[str, Any]) -> None:
    """As distill trains a phase."""
    from transformers import AutoModelForImageTextToText

    recipe = Recipe.model_validate(spec["recipe"])
    shapes = [shape(spec[name]) for name in ("student", "teacher")]
    built = [prompts.prompt(s, "nowhere", [], None) for s in shapes]
    phase = recipe.train.phases[0]
    student = AutoModelForImageTextToText.from_config(shapes[0].config, attn_implementation="sdpa").float().eval()
    teachers: Any = None
    if training.needs_teacher(recipe, phase):
        teacher = AutoModelForImageTextToText.from_config(shapes[1].config, attn_implementation="sdpa").eval()
        masked = MaskedTeacher(teacher.requires_grad_(False), recipe.mask.r_max)

        def at(_: int, ratio: float) -> Any:
            masked.set_ratio(ratio)
            return teacher

        teachers = SimpleNamespace(at=at, family=lambda _: shapes[1].family, prepare_with=lambda _: None)
    reference = None
    if training.separate_reference(recipe, phase):
        reference = copy.deepcopy(student).requires_grad_(False)
    student = training.trainable(student, recipe)
    with tempfile.TemporaryDirectory() as folder:
        settings = training.arguments(recipe, phase, Path(folder))
        settings.save_strategy = "no"
        trainer = training.PhaseTrainer(
            phase=phase,
            recipe=recipe,
            prompter=SimpleNamespace(tokenizer=range(built[0].vocabulary), family=shapes[0].family),
            teachers=teachers,
            reference=reference,
            model=student,
            args=settings,
            train_dataset=list(range(recipe.train.questions_per_step * phase.steps)),
            data_collator=Batches(shapes, built, recipe),
        )
        trainer.train()


def peak_bytes() -> int:
    """Highest resident memory since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def main() -> None:
    from masters_edge.common.quiet import hush, hush_transformers

    hush()
    hush_transformers()
    torch.set_num_threads(1)
    prompts.PICTURE = PICTURE
    spec = json.loads(sys.argv[1])
    train(spec | spec["warm_up"])
    gc.collect()
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")
    train(spec)
    print(json.dumps({"peak_bytes": peak_bytes() - before}))


if __name__ == "__main__":
    main()
