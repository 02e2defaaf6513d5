"""From the recipe to the Trainer's settings: batch per process, adapters, trackers, what stays frozen.

`check` refuses before anything is written what would fail hours later.
"""

import fnmatch
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from masters_edge.common import processes
from masters_edge.common.errors import UserError
from masters_edge.objective import probe
from masters_edge.recipe import Phase, Recipe, schedule
from masters_edge.recipe.schema import Lora
from masters_edge.run.cast import Cast
from masters_edge.training import qat, sharded

KEPT_CHECKPOINTS = 2
_PACKAGES = {"azure_ml": "azureml-core", "flyte": "flytekit"}  # of trackers that are not called as their package
# transformers 5.2x renamed it
_CHECKPOINTING = (
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)


def needs_reference(recipe: Recipe, phase: Phase) -> bool:
    """Whether the objective looks at the student as it was before (`reward.reference` says before what)."""
    in_use = phase.objective in ("joint", "reward") and recipe.reward.policy == "paper"
    return in_use and recipe.reward.kl_beta > 0 and recipe.reward.weight > 0


def separate_reference(recipe: Recipe, phase: Phase) -> bool:
    """Whether that may be a model of its own: adapters can be switched off instead, but only back to the student before
    this phase."""
    earlier = recipe.reward.reference == "start" and len(recipe.train.phases) > 1
    return needs_reference(recipe, phase) and (recipe.train.lora is None or earlier)


def needs_teacher(recipe: Recipe, phase: Phase) -> bool:
    """Whether a teacher runs beside the student."""
    asked = phase.objective in ("joint", "distill") or live_rewards(recipe, phase)
    return asked and recipe.train.teacher_logits == "live"


def live_rewards(recipe: Recipe, phase: Phase) -> bool:
    """Whether R_distill follows the student while it learns."""
    reward = recipe.reward
    return phase.objective in ("joint", "reward") and reward.live and reward.distillation


def check(recipe: Recipe, student: str) -> None:
    """Refuse a recipe that can't be trained here, before anything is generated; `student` is its checkpoint.

    Raises:
        UserError: a tracker that isn't known or installed, liger without a GPU, questions that can't be dealt out to
            the processes, adapters for layers that aren't there, nothing left that learns, models cut up in a way
            that isn't built in, or weights that can't be rounded while they learn.
    """
    from masters_edge.families.loading import bare_model, load_config

    train = recipe.train
    sharded.check()
    _check_trackers(train.trackers)
    if train.liger and not torch.cuda.is_available():
        raise UserError("train.liger: liger-kernel's fused layers need a GPU; leave it out on this machine")
    if train.liger and importlib.util.find_spec("liger_kernel") is None:
        raise UserError("train.liger needs liger-kernel, which is not installed; run: pip install liger-kernel")
    qat.check(recipe, load_config(student).model_type)
    for phase in train.phases:
        questions_per_device(recipe, phase)
    if train.lora or train.freeze:
        trainable(bare_model(student), recipe)


def check_attention(recipe: Recipe, cast: Cast, prompts: Mapping[str, int]) -> None:
    """Refuse a student or teacher that can't be read in grouped rows; `prompts`: the longest, by checkpoint (tokens).

    Raises:
        UserError: as `objective.probe.check`.
    """
    from masters_edge.families import load_config
    from masters_edge.families.prompts import context_of

    for source, longest in prompts.items():
        who = f"student {source}" if source == cast.student else f"teacher {source}"
        config, tokens = load_config(source), longest + recipe.responses.max_new_tokens
        probe.check(config, min(tokens, context_of(config) or tokens), who)


def trainable(student: Any, recipe: Recipe) -> Any:
    """The student with the recipe's adapters, if any, and with what the recipe freezes frozen.

    Raises:
        UserError: as `with_adapters`; a pattern of `train.freeze` that names nothing; nothing is left that learns.
    """
    train = recipe.train
    if train.lora:
        with torch.random.fork_rng():  # adapters start the same in every process and after every kill
            torch.manual_seed(recipe.seed)
            student = with_adapters(student, train.lora)
    freeze(student.get_base_model() if train.lora else student, train.freeze)
    return student


def freeze(model: torch.nn.Module, globs: Sequence[str]) -> None:
    """Parameters (adapters among them) with a name that fits one of the patterns don't learn."""
    parameters = dict(model.named_parameters())
    for glob in globs:
        named = fnmatch.filter(parameters, glob)
        if not named:
            raise UserError(
                f"train.freeze: no parameter of the student has a name like {glob!r}; names are such as "
                f"{next(iter(parameters), '(there is none)')}"
            )
        for name in named:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError(f"train.freeze {list(globs)} leaves nothing that learns; freeze less")


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
    alpha: Any = lora.alpha  # peft says int and divides by the rank
    config = LoraConfig(
        r=lora.rank, lora_alpha=alpha, lora_dropout=lora.dropout, target_modules=lora.targets or "all-linear"
    )
    try:
        return get_peft_model(student, config)
    except ValueError as error:
        raise UserError(f"train.lora.targets {lora.targets}: {str(error).splitlines()[0]}") from None


def has_adapters(model: Any) -> bool:
    return hasattr(model, "disable_adapter")


def plain_student(source: str, lora: Lora | None, weights: dict[str, torch.Tensor]) -> Any:
    """The trained student as a model of its own on the CPU, float32, adapters merged.

    `source`: the checkpoint that training began with; `weights`: all of the trained model, put together, with the names
    of the model inside whatever wraps it.
    """
    from masters_edge.families import load_model

    model = load_model(source).float()
    if lora is None:
        model.load_state_dict(weights)
        return model
    model = with_adapters(model, lora)
    model.load_state_dict(weights)
    return model.merge_and_unload()


def questions_per_device(recipe: Recipe, phase: Phase, count: int | None = None) -> tuple[int, int]:
    """Questions in one forward pass of one process, and how many passes are accumulated for a step.

    `count`: processes; default: those that there are.

    Raises:
        UserError: the step's questions can't be dealt out evenly.
    """
    count, train = count or processes.state().num_processes, recipe.train
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

    `folder` takes the checkpoints; trackers name the run after the two folders above it.
    """
    train = recipe.train
    per_device, accumulated = questions_per_device(recipe, phase)
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if train.precision == "bf16" else "no"  # whatever a launcher says
    checkpointing: dict[str, Any] = {_CHECKPOINTING: train.gradient_checkpointing}
    settings = TrainingArguments(
        output_dir=str(folder),
        project="masters-edge",
        run_name=f"{folder.absolute().parent.parent.name}-{folder.parent.name}",
        max_steps=phase.steps,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulated,
        **checkpointing,
        learning_rate=train.learning_rate,
        lr_scheduler_type="constant_with_warmup" if train.schedule == "constant" else train.schedule,
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        bf16=train.precision == "bf16",
        optim="adamw_torch",
        use_cpu=processes.on_cpu(),
        use_liger_kernel=train.liger,
        # The loss is computed from hidden states, so liger's own fused cross-entropy has no part in it.
        liger_kernel_config={"cross_entropy": False, "fused_linear_cross_entropy": False} if train.liger else None,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        save_strategy="steps",
        save_steps=train.save_every,
        save_total_limit=KEPT_CHECKPOINTS,
        logging_strategy="no",
        report_to=[name for name in train.trackers if name != "none"],
        disable_tqdm=True,
        seed=recipe.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,  # PhaseTrainer freezes what nothing reads
    )
    settings._n_gpu = min(settings.n_gpu, 1)  # one process drives one GPU; with several, use a launcher
    return settings


def _check_trackers(names: Sequence[str]) -> None:
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in names:
        if name == "none":
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            raise UserError(
                f"train.trackers: {name!r} is no tracker of transformers' Trainer; known: "
                f"{', '.join(sorted(INTEGRATION_TO_CALLBACK))}"
            )
        if name not in get_available_reporting_integrations():
            package = _PACKAGES.get(name, name)
            raise UserError(f"train.trackers: {name} is not installed; run: pip install {package}, or leave it out")
