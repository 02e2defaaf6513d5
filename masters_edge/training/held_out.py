"""Accuracy on the held-out questions, the curve beside training: by rule, or by the judge a question asks for."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from masters_edge.common import processes
from masters_edge.data.records import Question
from masters_edge.engines.transformers import Engine
from masters_edge.recipe.schema import Reward
from masters_edge.rewards.accuracy import Scorer
from masters_edge.rewards.verdicts import Item


class HeldOut:
    """Asks the student of an engine, as it stands, and returns how many answers are right, in per cent.

    Several processes share the questions. An answer that its judge failed on is left out.

    Args:
        engine: answers greedily.
        questions: with labels.
        reward: which rule or judge scores.
        folder: keeps the judge's verdicts.
        whole: makes a context in which every process has the student in one piece.
    """

    def __init__(
        self,
        engine: Engine,
        questions: Sequence[Question],
        reward: Reward,
        folder: Path,
        whole: Callable[[], Any],
    ) -> None:
        self.engine, self.whole = engine, whole
        self.questions = processes.share(questions)
        self.metric = reward.metric
        self.scorer = Scorer(reward, folder)

    def __call__(self) -> float:
        with self.whole():
            texts = self.engine.greedy(self.questions)
        items = [
            Item(question.id, question.text, text, question.accepted, question.metric or self.metric)
            for text, question in zip(texts, self.questions)
        ]
        scores = [verdict.score for verdict in self.scorer.score(items) if verdict.score is not None]
        right, of = processes.mean([sum(scores), len(scores)])
        return 100 * right / of if of else 0.0
