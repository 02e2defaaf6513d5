"""From the recipe to the Trainer's settings: batch per process, adapters, trackers, what stays frozen."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from masters_edge import processes, schedule
from masters_edge.errors import UserError
from masters_edge.recipe import Phase, Recipe
from masters_edge.recipe.schema import Lora

KEPT_CHECKPOINTS = 2


def needs_reference(recipe: Recipe, phase: Phase) -> bool:
    """Whether the objective looks at the student as it was before the phase."""
    in_use = phase.objective in ("joint", "reward") and recipe.reward.policy == "paper"
    return in_use and recipe.reward.kl_beta > 0 and recipe.reward.weight > 0


def needs_teacher(recipe: Recipe, phase: Phase) -> bool:
    """Whether a teacher runs beside the student."""
    return phase.objective in ("joint", "distill") and recipe.train.teacher_logits == "live"


def freeze(model: torch.nn.Module, globs: Sequence[str]) -> None:
    for name, parameter in model.named_parameters():
        if any(fnmatch.fnmatch(name, glob) for glob in globs):
            parameter.requires_grad_(False)


def with_adapters(student: Any, lora: Lora) -> Any:
    """The student inside peft's low-rank adapters.

    Raises:
        UserError: peft is missing, or no layer has one of the names in `train.lora.targets`.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError(
            "train.lora needs peft, which is not installed; run: pip install 'masters-edge[distill]'"
        ) from None
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.targets or "all-linear"
    )
    try:
        return get_peft_model(student, config)
    except ValueError as error:
        raise UserError(f"train.lora.targets {lora.targets}: {str(error).splitlines()[0]}") from None


def questions_per_device(recipe: Recipe, phase: Phase) -> tuple[int, int]:
    """Questions in one forward pass of one process, and how many passes are accumulated for a step.

    Raises:
        UserError: the step's questions can't be dealt out evenly.
    """
    count, train = processes.state().num_processes, recipe.train
    whole = train.questions_per_step
    per_device = train.questions_per_device or max(1, whole // count)
    if whole % (per_device * count):
        raise UserError(
            f"train.questions_per_step ({whole}) can't be dealt out to {count} processes with {per_device} questions "
            f"each; make it a multiple of {per_device * count}"
        )
    labels = schedule.questions_per_step(recipe, phase) // whole  # a labels phase has more questions, of one sequence
    return per_device * labels, whole // (per_device * count)


def arguments(recipe: Recipe, phase: Phase, folder: Path) -> TrainingArguments:
    """The Trainer's settings: what the recipe says, its order of data, and none of its own output.

    Raises:
        UserError: a tracker that isn't known or installed, liger without a GPU, questions that can't be dealt out.
    """
    train = recipe.train
    per_device, accumulated = questions_per_device(recipe, phase)
    _check_trackers(train.trackers)
    if train.liger and not torch.cuda.is_available():
        raise UserError("train.liger: liger-kernel's fused layers need a GPU; leave it out on this machine")
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=phase.steps,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulated,
        activation_checkpointing=train.gradient_checkpointing,
        learning_rate=train.learning_rate,
        lr_scheduler_type="constant_with_warmup" if train.schedule == "constant" else train.schedule,
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        bf16=train.precision == "bf16",
        optim="adamw_torch",
        use_liger_kernel=train.liger,
        # The loss is computed from hidden states, so liger's own fused cross-entropy has no part in it.
        liger_kernel_config={"cross_entropy": False, "fused_linear_cross_entropy": False} if train.liger else None,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        save_strategy="steps",
        save_steps=train.save_every,
        save_total_limit=KEPT_CHECKPOINTS,
        logging_strategy="no",
        report_to=train.trackers,
        disable_tqdm=True,
        seed=recipe.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
        # Every process sees the same numbers, and DDP finds every gradient: the objective touches all weights that learn.
        ddp_find_unused_parameters=False,
    )


def _check_trackers(names: Sequence[str]) -> None:
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise UserError(
                f"train.trackers: {name!r} is no tracker of transformers' Trainer; known: "
                f"{', '.join(sorted(INTEGRATION_TO_CALLBACK))}"
            )
        if name not in get_available_reporting_integrations():
            raise UserError(f"train.trackers: {name} is not installed; run: pip install {name}, or leave it out")
