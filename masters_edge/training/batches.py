"""Visits to questions as tensors: what the student reads, what each response token weighs, what the teacher says of it.

In: the phase's visits in order, and the Parquet shards that hold their responses. Out: batches of one stage each. A
shard is read when its first visit comes, and few are kept, so memory stays flat however many responses there are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from masters_edge.data.records import Question
from masters_edge.families.prompts import Prompter
from masters_edge.objective import sequences
from masters_edge.responses import store
from masters_edge.schedule import Stage
from masters_edge.teachers import TeacherChain

_SHARDS_KEPT = 8


@dataclass(frozen=True, slots=True)
class Visit:
    """One visit to one question: which stage, and the shard with its responses; a labelled question needs neither."""

    question: Question
    stage: Stage | None = None
    shard: Path | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A visit with the question's responses: counts, scores and advantages, or the label alone."""

    question: Question
    rows: list[dict[str, Any]]
    stage: Stage | None


class Visits(torch.utils.data.Dataset):
    """All visits of a phase, in order."""

    def __init__(self, visits: Sequence[Visit], label_row: Callable[[Question], dict[str, Any]]) -> None:
        self.visits, self.label_row = visits, label_row
        self._shard = lru_cache(_SHARDS_KEPT)(store.groups)

    def __len__(self) -> int:
        return len(self.visits)

    def __getitem__(self, index: int) -> Group:
        visit = self.visits[index]
        if visit.shard is None:
            return Group(visit.question, [self.label_row(visit.question)], None)
        return Group(visit.question, self._shard(visit.shard)[visit.question.id], visit.stage)


class Collator:
    """Groups of one stage into tensors; teacher and student each get prompts of their own making.

    `teachers` is None where no teacher runs beside the student: no teacher at all, or one whose words are stored.
    """

    def __init__(self, student: Prompter, teachers: TeacherChain | None) -> None:
        self.student, self.teachers = student, teachers

    def __call__(self, groups: list[Group]) -> dict[str, Any]:
        rows = [row for group in groups for row in group.rows]
        owner = [place for place, group in enumerate(groups) for _ in group.rows]
        responses = [list(row["token_ids"]) for row in rows]
        lengths = [len(response) for response in responses]
        total = [sum(row["count"] for row in group.rows) for group in groups]
        # Mean over each question's responses, then over questions: sums to 1.
        shares = [row["count"] / total[o] / len(groups) for row, o in zip(rows, owner)]
        batch: dict[str, Any] = {
            "student": self._pack(self.student, groups, responses, owner),
            "ids": torch.tensor([token for response in responses for token in response]),
            "weights": torch.tensor(np.repeat(np.divide(shares, lengths), lengths), dtype=torch.float32),
        }
        stage = groups[0].stage
        if stage is None:
            return batch
        batch["stage"] = (stage.index, stage.teacher, stage.ratio)
        batch["advantages"] = torch.tensor(np.repeat([r["advantage"] for r in rows], lengths), dtype=torch.float32)
        batch["initial_log_probs"] = torch.tensor(np.concatenate([r["log_probs"] for r in rows]), dtype=torch.float32)
        if self.teachers is not None:
            batch["teacher"] = self._pack(self.teachers.prompter(stage.teacher), groups, responses, owner)
        if rows[0].get("top_ids") is not None:
            of = {name: torch.tensor(np.concatenate([r[name] for r in rows])) for name in ("top_ids", "top_log_probs")}
            batch["top_ids"] = of["top_ids"].long().view(sum(lengths), -1)
            batch["top_log_probs"] = of["top_log_probs"].float().view(sum(lengths), -1)
            batch["rest"] = torch.tensor(np.concatenate([r["rest"] for r in rows]))
        batch["scores"] = {
            name: sum(share * (row[name] or 0.0) for share, row in zip(shares, rows))
            for name in ("reward", "r_acc", "r_distill")
        } | {"no_advantage": sum(not any(r["advantage"] for r in g.rows) for g in groups) / len(groups)}
        return batch

    def _pack(self, prompter: Prompter, groups: list[Group], responses: list[list[int]], owner: list[int]) -> Any:
        prompts, images = zip(*(prompter(group.question) for group in groups))
        return sequences.pack(prompts, images, responses, owner, prompter.tokenizer.pad_token_id)
