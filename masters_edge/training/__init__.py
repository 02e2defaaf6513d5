"""One phase of training on transformers' Trainer: the objective of METHOD 4 to 6 and 8, checkpoints, resume."""

from masters_edge.training.batches import Collator, Visits
from masters_edge.training.checkpoints import MarkComplete, last_checkpoint
from masters_edge.training.qat import FakeQuantization
from masters_edge.training.setup import (
    arguments,
    check,
    check_attention,
    needs_reference,
    needs_teacher,
    separate_reference,
    trainable,
)
from masters_edge.training.sharded import whole
from masters_edge.training.trainer import PhaseTrainer

__all__ = [
    "Collator",
    "FakeQuantization",
    "MarkComplete",
    "PhaseTrainer",
    "Visits",
    "arguments",
    "check",
    "check_attention",
    "last_checkpoint",
    "needs_reference",
    "needs_teacher",
    "separate_reference",
    "trainable",
    "whole",
]
