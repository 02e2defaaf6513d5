"""The Trainer of one phase: one forward pass of the student over rows of questions, the objective in chunks.

Whatever wraps the student (DDP, FSDP2, DeepSpeed, nothing) sees a single forward call that returns the loss. A teacher
that stays whole is masked in place before the step and its weights come back with later stages; one that is cut up over
processes is loaded, masked and cut up anew for each stage.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, Trainer

from masters_edge import rewards
from masters_edge.common import processes, seals
from masters_edge.common.files import whole_folder
from masters_edge.families.base import Family
from masters_edge.families.prompts import Prompter
from masters_edge.objective import chunked, sequences
from masters_edge.objective.divergence import TopLogProbs
from masters_edge.objective.terms import LogitsOf, Objective, Tokens
from masters_edge.recipe import Phase, Recipe
from masters_edge.teacher.chain import TeacherChain
from masters_edge.training import batches, qat, sharded
from masters_edge.training.setup import has_adapters, live_rewards, needs_reference, plain_student


class NotFinite(ArithmeticError):
    """A loss, a gradient or a weight that is no number, and the optimizer step that it came up in."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"step {step}: {what}")


class PhaseTrainer(Trainer):
    """The objective of one phase; everything else is transformers' Trainer."""

    def __init__(
        self,
        *,
        phase: Phase,
        recipe: Recipe,
        prompter: Prompter,
        teachers: TeacherChain | None,
        reference: Any,
        rounding: qat.FakeQuantization | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        sharded.load_whole()
        self.phase, self.recipe, self.teachers = phase, recipe, teachers
        self.prompter, self.family = prompter, prompter.family
        self.rounding = rounding
        self.prepare_frozen = sharded.preparer(self.accelerator)
        self.reference = self.prepare_frozen(reference) if reference is not None and self.prepare_frozen else reference
        self.remove_callback(PrinterCallback)  # Reporter speaks instead
        self.vocabulary = len(prompter.tokenizer)
        self.measured: dict[str, list[float]] = defaultdict(list)

    def train(self, *options: Any, **named: Any) -> Any:
        """As Trainer's; the teachers are cut up over processes only as long as it lasts."""
        if self.accelerator.num_processes > 1 and not self.is_fsdp_enabled and not self.is_deepspeed_enabled:
            self._freeze_unread()
        if self.teachers is None:
            return super().train(*options, **named)
        self.teachers.prepare_with(self.prepare_frozen)
        try:
            return super().train(*options, **named)
        finally:
            self.teachers.prepare_with(None)

    def _freeze_unread(self) -> None:
        """Freeze weights that no forward pass reads, such as the last norm of LLaVA-OneVision's vision encoder.

        They never learn, but DDP would wait for their gradients.
        """
        student: Any = self.model
        questions: Any = self.train_dataset
        plain = _without_wrapper(student)
        batch = self.data_collator([questions[0]])["student"]
        with torch.random.fork_rng(), torch.enable_grad():
            sequences.response_hidden(plain, self.family, batch).float().square().sum().backward()
        head = {id(parameter) for parameter in plain.get_output_embeddings().parameters()}
        for parameter in student.parameters():
            if parameter.grad is None and id(parameter) not in head:
                parameter.requires_grad_(False)
            parameter.grad = None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        student = self.accelerator.unwrap_model(model)
        sharded.register_head(student, _without_wrapper(student))
        with self.accelerator.autocast():
            teacher, reference = self._teacher(inputs), self._reference(inputs)
        reported: dict[str, torch.Tensor] = {}  # beside the forward's outputs, which FSDP may round

        def objective() -> torch.Tensor:
            loss, values = self._objective(student, inputs, teacher, reference)
            reported.update(values)
            return loss

        loss = forward_as(model, student, objective)
        if not torch.isfinite(loss):
            raise NotFinite(self.state.global_step + 1, f"the loss is {loss.item():g}")
        if self.rounding:
            reported["qat"] = torch.tensor(float(self.rounding.on))
        for name, value in {**reported, **inputs.get("scores", {})}.items():
            self.measured[name].append(float(value))
        return (loss, {}) if return_outputs else loss

    def _objective(
        self, student: Any, inputs: Any, teacher: LogitsOf | TopLogProbs | None, reference: LogitsOf | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        plain = _without_wrapper(student)
        with self.accelerator.autocast():
            if reference is None and needs_reference(self.recipe, self.phase):
                reference = self._without_adapters(student, plain, inputs)
            hidden = sequences.response_hidden(plain, self.family, inputs["student"])
            known = {name: inputs.get(name) for name in ("advantages", "initial_log_probs")}
            tokens = Tokens(inputs["ids"], inputs["weights"], **known)
            objective = Objective(self.phase, self.recipe.reward, tokens, teacher, reference)
            head = qat.head(plain, sharded.head_in_forward(plain))
            if live_rewards(self.recipe, self.phase):
                objective = self._rewarded_anew(objective, hidden.detach(), head, inputs)
            return chunked.loss(hidden, head, self.vocabulary, objective)

    @torch.no_grad()
    def _rewarded_anew(self, objective: Objective, hidden: torch.Tensor, head: chunked.Head, inputs: Any) -> Objective:
        """The same objective with R_distill, and so the advantages, from the student as it is now."""
        parts = chunked.chunks(len(hidden), self.vocabulary)
        values = [objective.divergence(chunked.chunk_logits(hidden[p], head, self.vocabulary), p) for p in parts]
        lengths, rows = inputs["lengths"], iter(torch.cat(values).double().cpu().split(inputs["lengths"]))
        scores = [
            rewards.score(group, self.recipe.reward, np.array([next(rows).mean().item() for _ in group]))
            for group in inputs["groups"]
        ]
        inputs["scores"] = batches.reported(scores, inputs["shares"])
        fresh = batches.advantages(scores, lengths).to(hidden.device)
        return replace(objective, tokens=replace(objective.tokens, advantages=fresh))

    def _get_grad_norm(self, *options: Any, **named: Any) -> Any:
        """As Trainer's, which asks for it before each optimizer step."""
        norm = super()._get_grad_norm(*options, **named)
        if norm is not None and not math.isfinite(norm):
            raise NotFinite(self.state.global_step + 1, f"the gradient's norm is {float(norm):g}")
        return norm

    def _save_checkpoint(self, *options: Any, **named: Any) -> None:
        """As Trainer's, also after the last step; weights that are no numbers are not saved."""
        for name, parameter in self.model_wrapped.named_parameters():
            own = sharded.own_part(parameter)
            if parameter.requires_grad and own.numel() and not torch.stack(torch.aminmax(own)).isfinite().all():
                raise NotFinite(self.state.global_step, f"weights are no numbers any more ({name})")
        super()._save_checkpoint(*options, **named)

    def _teacher(self, inputs: Any) -> LogitsOf | TopLogProbs | None:
        if self.phase.objective not in ("joint", "distill") and not live_rewards(self.recipe, self.phase):
            return None
        if "top_ids" in inputs:
            return TopLogProbs(inputs["top_ids"], inputs["top_log_probs"], inputs["rest"])
        assert self.teachers is not None
        _, number, ratio = inputs["stage"]
        return self._frozen(self.teachers.at(number, ratio), self.teachers.family(number), inputs["teacher"])

    def _reference(self, inputs: Any) -> LogitsOf | None:
        """A model of its own, where there is one; the student before this phase needs none beside adapters, which are
        switched off."""
        return None if self.reference is None else self._frozen(self.reference, self.family, inputs["student"])

    @torch.no_grad()
    def _without_adapters(self, student: Any, plain: Any, inputs: Any) -> LogitsOf:
        with student.disable_adapter():
            hidden = sequences.response_hidden(plain, self.family, inputs["student"])
        return self._later(hidden, sharded.head_in_forward(plain))

    @torch.no_grad()
    def _frozen(self, model: Any, family: Family, batch: Any) -> LogitsOf:
        """The model's hidden states now, its logits when a chunk asks."""
        plain = self.accelerator.unwrap_model(model)
        hidden = forward_as(model, plain, lambda: sequences.response_hidden(plain, family, batch))
        return self._later(hidden, sharded.frozen_head(plain))

    def _later(self, hidden: torch.Tensor, head: chunked.Head) -> LogitsOf:
        def logits(part: slice) -> torch.Tensor:
            with torch.no_grad():
                return chunked.chunk_logits(hidden[part], head, self.vocabulary)

        return logits

    def save_student(self, out: Path, processor: Any, source: str, seal: bool = False) -> None:
        """The trained student as transformers saves it, whole, adapters merged; written by one process.

        `source`: the checkpoint that the phase started from; `seal`: with digests of its files (`common.seals`).
        """
        weights = self.accelerator.get_state_dict(self.model_wrapped)
        if processes.state().is_main_process:
            student = plain_student(source, self.recipe.train.lora, weights)
            with whole_folder(out) as temporary:
                student.save_pretrained(temporary)
                processor.save_pretrained(temporary)
                if seal:
                    seals.seal(temporary)
        processes.state().wait_for_everyone()

    def take_measured(self) -> dict[str, float]:
        """Means since the last call, over all processes."""
        names = sorted(self.measured)
        means = processes.mean(sum(self.measured[name]) / len(self.measured[name]) for name in names)
        self.measured.clear()
        return dict(zip(names, means))


def forward_as(wrapper: Any, module: Any, compute: Callable[[], Any]) -> Any:
    """Call `compute` as if it were the module's forward, inside all that wraps it.

    DDP, FSDP and DeepSpeed gather weights and reduce gradients around `wrapper(...)`; a loss computed outside of it
    would miss both.
    """
    forward = module.forward

    def instead(*_: Any, **__: Any) -> Any:
        module.forward = forward
        return compute()

    module.forward = instead
    try:
        return wrapper()
    finally:
        module.forward = forward


def _without_wrapper(student: Any) -> Any:
    """The transformers model itself, adapters in its layers."""
    return student.get_base_model() if has_adapters(student) else student
