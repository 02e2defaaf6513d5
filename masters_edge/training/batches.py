"""Visits to questions as tensors: what the student reads, what each response token weighs, what the teacher says of it.

In: the phase's visits in order, and the Parquet shards that hold their responses. Out: batches of one stage each. A
shard is read when its first visit comes, and few are kept, so memory stays flat however many responses there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from masters_edge import rewards
from masters_edge.common.errors import UserError
from masters_edge.data.records import Question
from masters_edge.families.prompts import Prompter
from masters_edge.objective import sequences
from masters_edge.recipe.schedule import Stage
from masters_edge.recipe.schema import Reward
from masters_edge.responses import store
from masters_edge.responses.visits import Visit
from masters_edge.teacher.chain import TeacherChain

_SHARDS_KEPT = 8


@dataclass(frozen=True, slots=True)
class Group:
    """A visit with the question's responses and what was scored of them, or the label alone."""

    question: Question
    rows: list[dict[str, Any]]
    stage: Stage | None


class Visits(torch.utils.data.Dataset):
    """All visits of a phase, in order; a question without responses has its label, as the student writes it."""

    def __init__(self, visits: Sequence[Visit], student: Prompter) -> None:
        self.visits, self.student = visits, student
        self._shard = lru_cache(_SHARDS_KEPT)(store.groups)

    def __len__(self) -> int:
        return len(self.visits)

    def __getitem__(self, index: int) -> Group:
        visit = self.visits[index]
        if visit.shard is None:
            ids = self.student.response_ids(visit.question, visit.question.answer or "")
            return Group(visit.question, [{"token_ids": ids, "count": 1}], None)
        groups = self._shard(visit.shard)
        if visit.question.id not in groups:
            raise UserError(
                f"{visit.shard} has no responses to question {visit.question.id}; delete it, and the same command "
                "makes it again"
            )
        return Group(visit.question, groups[visit.question.id], visit.stage)


class Collator:
    """Groups of one stage into tensors; teacher and student each get prompts of their own making.

    `teachers` is None where no teacher runs beside the student: no teacher at all, or one whose words are stored.
    `reward` says what becomes of the stored scores.
    """

    def __init__(self, student: Prompter, teachers: TeacherChain | None, reward: Reward) -> None:
        self.student, self.teachers, self.reward = student, teachers, reward

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
            "ids": torch.tensor([token for response in responses for token in response], dtype=torch.int64),
            "weights": torch.tensor(np.repeat(shares, lengths) / np.repeat(lengths, lengths), dtype=torch.float32),
        }
        stage = groups[0].stage
        if stage is None:
            return batch
        batch["stage"] = (stage.index, stage.teacher, stage.ratio)
        scores = [rewards.score(group.rows, self.reward) for group in groups]
        batch |= {"lengths": lengths, "shares": shares, "groups": [slim(group.rows) for group in groups]}
        batch["advantages"] = advantages(scores, lengths)
        batch["initial_log_probs"] = torch.tensor(np.concatenate([r["log_probs"] for r in rows]), dtype=torch.float32)
        if self.teachers is not None:
            batch["teacher"] = self._pack(self.teachers.prompter(stage.teacher), groups, responses, owner)
        if rows[0].get("top_ids") is not None:
            of = {name: torch.tensor(np.concatenate([r[name] for r in rows])) for name in ("top_ids", "top_log_probs")}
            shape = (sum(lengths), len(of["top_ids"]) // max(1, sum(lengths)))
            batch["top_ids"] = of["top_ids"].long().view(shape)
            batch["top_log_probs"] = of["top_log_probs"].float().view(shape)
            batch["rest"] = torch.tensor(np.concatenate([r["rest"] for r in rows]))
        batch["scores"] = reported(scores, shares)
        return batch

    def _pack(self, prompter: Prompter, groups: list[Group], responses: list[list[int]], owner: list[int]) -> Any:
        prompts, images = zip(*(prompter(group.question) for group in groups))
        return sequences.pack(prompts, images, responses, owner, prompter.tokenizer.pad_token_id)


def advantages(scores: Sequence[rewards.Scores], lengths: Sequence[int]) -> torch.Tensor:
    """What the policy term reads of the groups' scores, float32 `[tokens]`.

    `lengths`: tokens of each response, all groups in order.
    """
    of_responses = np.concatenate([group.advantage for group in scores])
    return torch.tensor(np.repeat(of_responses, lengths), dtype=torch.float32)


def reported(scores: Sequence[rewards.Scores], shares: Sequence[float]) -> dict[str, float]:
    """Means over the batch: rewards, and the shares of groups without advantage and of unscored responses.

    `shares`: each response's share of the batch.
    """
    values = {name: np.concatenate([getattr(g, name) for g in scores]) for name in ("reward", "r_acc", "r_distill")}
    found = {name: float(np.dot(shares, value)) for name, value in values.items()}
    found["no_advantage"] = sum(not g.advantage.any() for g in scores) / len(scores)
    found["unscored"] = float(np.dot(shares, ~np.concatenate([g.counted for g in scores])))
    return found


def slim(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `rewards.score` needs of stored rows besides their divergences."""
    return [{name: row[name] for name in ("count", "r_acc", "scorer")} for row in rows]
