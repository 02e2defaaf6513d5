"""The Trainer of one phase: one forward pass of the student over rows of questions, the objective in chunks.

Whatever wraps the student (DDP, FSDP, DeepSpeed, nothing) sees a single forward call that returns the loss. The teacher
of the step's stage is masked in place before the step; its weights come back with later stages.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer

from masters_edge import processes
from masters_edge.families.base import Family
from masters_edge.families.prompts import Prompter
from masters_edge.files import whole_folder
from masters_edge.objective import chunked, sequences
from masters_edge.objective.divergence import TopLogProbs
from masters_edge.objective.terms import LogitsOf, Objective, Tokens
from masters_edge.recipe import Phase, Recipe
from masters_edge.teachers import TeacherChain
from masters_edge.training.setup import needs_reference


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
        student = self.accelerator.unwrap_model(model)
        loss, reported = forward_as(model, student, lambda: self._objective(student, inputs))
        for name, value in {**reported, **inputs.get("scores", {})}.items():
            self.measured[name].append(float(value))
        return (loss, {}) if return_outputs else loss

    def _objective(self, student: Any, inputs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        plain = student.get_base_model() if _has_adapters(student) else student
        with self.accelerator.autocast():
            objective = Objective(
                self.phase,
                self.recipe.reward,
                Tokens(inputs["ids"], inputs["weights"], inputs.get("advantages"), inputs.get("initial_log_probs")),
                teacher=self._teacher(inputs),
                reference=self._reference(student, inputs),
            )
            hidden = sequences.response_hidden(plain, self.family, inputs["student"])
            with gathered(plain):
                return chunked.loss(hidden, chunked.Head.of(plain), self.vocabulary, objective)

    @torch.no_grad()
    def _teacher(self, inputs: Any) -> LogitsOf | TopLogProbs | None:
        if self.phase.objective not in ("joint", "distill"):
            return None
        if "top_ids" in inputs:
            return TopLogProbs(inputs["top_ids"], inputs["top_log_probs"], inputs["rest"])
        assert self.teachers is not None
        _, number, ratio = inputs["stage"]
        teacher = self.teachers.at(number, ratio)
        return self._logits_of(teacher, self.teachers.family(number), inputs["teacher"])

    @torch.no_grad()
    def _reference(self, student: Any, inputs: Any) -> LogitsOf | None:
        """The student as it was before the phase: a copy of it, or itself without its adapters."""
        if self.reference is not None:
            return self._logits_of(self.reference, self.family, inputs["student"])
        if not (needs_reference(self.recipe, self.phase) and _has_adapters(student)):
            return None
        with student.disable_adapter():
            hidden = sequences.response_hidden(student.get_base_model(), self.family, inputs["student"])
        return self._later(hidden, chunked.Head.of(student.get_base_model()))

    def _logits_of(self, model: Any, family: Family, batch: Any) -> LogitsOf:
        """The model's hidden states now, its logits when a chunk asks."""
        hidden = forward_as(model, model, lambda: sequences.response_hidden(model, family, batch))
        with gathered(model):
            return self._later(hidden, chunked.Head.of(model))

    def _later(self, hidden: torch.Tensor, head: chunked.Head) -> LogitsOf:
        def logits(part: slice) -> torch.Tensor:
            with torch.no_grad():
                return chunked.chunk_logits(hidden[part], head, self.vocabulary)

        return logits

    def save_student(self, out: Path, processor: Any) -> None:
        """The trained student as transformers saves it, whole, adapters merged; written by one process."""
        weights = self.accelerator.get_state_dict(self.model_wrapped)
        student = self.accelerator.unwrap_model(self.model_wrapped)
        if processes.state().is_main_process:
            if _has_adapters(student):
                student, weights = student.merge_and_unload(), None
            with whole_folder(out) as temporary:
                student.save_pretrained(temporary, state_dict=weights)
                processor.save_pretrained(temporary)
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


@contextlib.contextmanager
def gathered(model: Any) -> Iterator[None]:
    """The model's output head whole, where DeepSpeed ZeRO-3 has left this process only a part."""
    cut = [p for p in model.get_output_embeddings().parameters() if hasattr(p, "ds_id")]
    if not cut:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(cut):
        yield


def _has_adapters(model: Any) -> bool:
    return hasattr(model, "disable_adapter")
