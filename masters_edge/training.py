"""One phase of training on transformers' Trainer: the objective of METHOD 4 to 6 and 8, checkpoints, resume.

In: a student, the phase's groups of scored responses in the order they are visited, the chain of teachers. Out: the
trained student. The teacher of the step's stage is masked in place before the step and restored by later stages. A
killed phase goes on from its last whole checkpoint and ends with the same weights, bit for bit on CPU.
"""

import fnmatch
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from masters_edge.data.records import Question
from masters_edge.families.base import Family
from masters_edge.families.prompts import Prompter
from masters_edge.objective import policy, sequences
from masters_edge.objective.divergence import jsd, kl, token_mean
from masters_edge.recipe import Phase, Recipe
from masters_edge.schedule import Stage
from masters_edge.teachers import TeacherChain

COMPLETE = "complete"  # marks a checkpoint that was written to its end
KEPT_CHECKPOINTS = 2


@dataclass(frozen=True, slots=True)
class Group:
    """One visit to one question: its responses with counts, scores and advantages, or its label alone."""

    question: Question
    rows: list[dict[str, Any]]
    stage: Stage | None


class Groups(torch.utils.data.Dataset):
    """All visits of a phase, in order."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Group:
        return self.groups[index]


class Collator:
    """Groups of one stage into tensors; teacher and student each get prompts of their own making."""

    def __init__(self, student: Prompter, teachers: TeacherChain | None) -> None:
        self.student, self.teachers = student, teachers

    def __call__(self, groups: list[Group]) -> dict[str, Any]:
        rows = [row for group in groups for row in group.rows]
        owner = [place for place, group in enumerate(groups) for _ in group.rows]
        responses = [row["token_ids"] for row in rows]
        total = [sum(row["count"] for row in group.rows) for group in groups]
        batch: dict[str, Any] = {
            "student": self._pack(self.student, groups, responses, owner),
            "response_ids": sequences.pad_responses(responses).long(),
            "mask": sequences.response_mask(responses),
            # Mean over each question's responses, then over questions: float32 [sequences], sums to 1.
            "weights": torch.tensor([r["count"] / total[o] / len(groups) for r, o in zip(rows, owner)]),
        }
        stage = groups[0].stage
        if stage is not None and self.teachers is not None:
            batch["stage"] = (stage.index, stage.teacher, stage.ratio)
            batch["teacher"] = self._pack(self.teachers.prompter(stage.teacher), groups, responses, owner)
            batch["advantages"] = torch.tensor([r["advantage"] for r in rows], dtype=torch.float32)
            batch["initial_log_probs"] = sequences.pad_responses([r["log_probs"] for r in rows]).float()
            batch["scores"] = {
                name: sum(w * (r[name] or 0.0) for w, r in zip(batch["weights"].tolist(), rows))
                for name in ("reward", "r_acc", "r_distill")
            } | {"no_advantage": sum(not any(r["advantage"] for r in g.rows) for g in groups) / len(groups)}
        return batch

    def _pack(self, prompter: Prompter, groups: list[Group], responses: list[list[int]], owner: list[int]) -> Any:
        prompts, images = zip(*(prompter(group.question) for group in groups))
        return sequences.pack(prompts, images, responses, owner, prompter.tokenizer.pad_token_id)


class PhaseTrainer(Trainer):
    """The objective of one phase; everything else is transformers' Trainer."""

    def __init__(
        self,
        *,
        phase: Phase,
        recipe: Recipe,
        family: Family,
        prompter: Prompter,
        teachers: TeacherChain | None,
        reference: Any,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.phase, self.recipe, self.family, self.teachers, self.reference = phase, recipe, family, teachers, reference
        self.remove_callback(PrinterCallback)  # metrics_log.Reporter speaks instead
        self.vocabulary = len(prompter.tokenizer)
        self.measured: dict[str, list[float]] = defaultdict(list)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        logits = self._logits(model, self.family, inputs["student"])
        mask, weights, terms = inputs["mask"], inputs["weights"], {}
        log_probs = sequences.log_probs(logits, inputs["response_ids"])
        if self.phase.objective == "labels":
            terms["loss"] = -(weights * token_mean(log_probs, mask)).sum()
        if self.phase.objective in ("joint", "distill"):
            terms["jsd"] = (weights * token_mean(jsd(self._teacher_logits(inputs), logits), mask)).sum()
        if self.phase.objective in ("joint", "reward"):
            terms["policy"] = (weights * self._policy(inputs, logits, log_probs)).sum()
        loss = terms.get("loss", 0) + terms.get("jsd", 0) + self.recipe.reward.weight * terms.get("policy", 0)
        for name, value in {**terms, "loss": loss}.items():
            if name != "policy":  # with ratio 1 its value says nothing
                self.measured[name].append(float(value.detach()))
        for name, value in inputs.get("scores", {}).items():
            self.measured[name].append(value)
        return (loss, logits) if return_outputs else loss

    def _logits(self, model: Any, family: Family, batch: Any) -> torch.Tensor:
        return sequences.aligned(sequences.response_logits(model, family, batch), self.vocabulary)

    @torch.no_grad()
    def _teacher_logits(self, inputs: Any) -> torch.Tensor:
        assert self.teachers is not None
        _, teacher, ratio = inputs["stage"]
        return self._logits(self.teachers.at(teacher, ratio), self.teachers.family(teacher), inputs["teacher"])

    def _policy(self, inputs: Any, logits: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
        """The recipe's policy term, `[sequences]`."""
        reward, mask, advantages = self.recipe.reward, inputs["mask"], inputs["advantages"]
        if reward.policy == "positive":
            return policy.positive(log_probs, mask, advantages)
        if reward.policy == "truncated_is":
            return policy.truncated_is(log_probs, mask, advantages, inputs["initial_log_probs"])
        to_reference = torch.zeros_like(log_probs)
        if self.reference is not None:
            with torch.no_grad():
                reference = self._logits(self.reference, self.family, inputs["student"])
            to_reference = kl(logits, reference)
            mean = (inputs["weights"] * token_mean(to_reference, mask)).sum()
            self.measured["kl_reference"].append(float(mean.detach()))
        return policy.paper(log_probs, mask, advantages, to_reference, reward.kl_beta)

    def take_measured(self) -> dict[str, float]:
        """Means since the last call."""
        means = {name: sum(values) / len(values) for name, values in self.measured.items()}
        self.measured.clear()
        return means


class MarkComplete(TrainerCallback):
    """Trainer writes a checkpoint file by file; the mark, written last, tells a whole one from a torn one."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; torn ones are removed."""
    whole: list[tuple[int, Path]] = []
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / COMPLETE).exists():
            whole.append((int(checkpoint.name.rpartition("-")[2]), checkpoint))
        else:
            shutil.rmtree(checkpoint)
    return max(whole)[1] if whole else None


def needs_reference(recipe: Recipe, phase: Phase) -> bool:
    """Whether the objective looks at the student as it was before the phase."""
    in_use = phase.objective in ("joint", "reward") and recipe.reward.policy == "paper"
    return in_use and recipe.reward.kl_beta > 0 and recipe.reward.weight > 0


def freeze(model: torch.nn.Module, globs: Sequence[str]) -> None:
    for name, parameter in model.named_parameters():
        if any(fnmatch.fnmatch(name, glob) for glob in globs):
            parameter.requires_grad_(False)


def arguments(recipe: Recipe, phase: Phase, folder: Path, groups_per_step: int) -> TrainingArguments:
    """The Trainer's settings: what the recipe says, its order of data, and none of its own output."""
    train = recipe.train
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=phase.steps,
        per_device_train_batch_size=groups_per_step,
        learning_rate=train.learning_rate,
        lr_scheduler_type="constant_with_warmup" if train.schedule == "constant" else train.schedule,
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        bf16=train.precision == "bf16",
        optim="adamw_torch",
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        save_strategy="steps",
        save_steps=train.save_every,
        save_total_limit=KEPT_CHECKPOINTS,
        logging_strategy="no",
        report_to=["tensorboard"],
        disable_tqdm=True,
        seed=recipe.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
