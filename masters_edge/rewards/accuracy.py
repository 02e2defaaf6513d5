"""R_acc (METHOD 5): how well each response matches its question's accepted answers, by a rule or by a judge.

In: items, each with the name of its metric. Out: a verdict per item, in order. Rules (`scoring.metrics`) score at
once; the metric `judge` asks a language model, which is loaded or called only when a question needs it, and whose
verdicts are kept on disk. A verdict without a score is left out of R_acc and counted; it is never a 0.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType

from masters_edge.common import processes
from masters_edge.common.errors import UserError
from masters_edge.data.records import Question
from masters_edge.recipe.schema import Reward
from masters_edge.rewards.judge.panel import Panel
from masters_edge.rewards.verdicts import Item, Verdict
from masters_edge.scoring import metrics

JUDGE = metrics.JUDGE


class Scorer:
    """Scores responses as a recipe's `reward` asks for. Nothing is opened before the first response for the judge.

    `folder` keeps what the judge said (`judge.sqlite`); several processes may use it at the same time.
    """

    def __init__(self, reward: Reward, folder: Path) -> None:
        self.reward, self.folder = reward, folder
        self.unscored = 0
        """Responses that the judge failed on so far (count)."""
        self._panel: Panel | None = None

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the judge and its cache; a later `score` opens them again."""
        if self._panel is not None:
            self._panel.close()
            self._panel = None

    def check(self) -> None:
        """Have the judge say something, before hours are spent on what it is to score.

        Raises:
            UserError: the recipe names no judge, it can't be loaded or can't be reached.
        """
        self._open("the run").check()

    def score(self, items: Sequence[Item], on_progress: Callable[[int], None] | None = None) -> list[Verdict]:
        """A verdict per item, in order. `on_progress` hears how many responses were judged since it was last called.

        Raises:
            UserError: an unknown metric, a judge that the recipe doesn't name, can't be loaded or can't be reached.
        """
        judged = [place for place, item in enumerate(items) if item.metric == JUDGE and _unasked(item) is None]
        found = {place: verdict for place, verdict in zip(judged, self._judge([items[p] for p in judged], on_progress))}
        verdicts = [found.get(place) or _by_rule(item) for place, item in enumerate(items)]
        self.unscored += sum(verdict.score is None for verdict in verdicts)
        return verdicts

    def _judge(self, items: Sequence[Item], on_progress: Callable[[int], None] | None) -> Iterable[Verdict]:
        return self._open(f"question {items[0].question_id}").verdicts(items, on_progress) if items else []

    def _open(self, who: str) -> Panel:
        if self._panel is None:
            if self.reward.judge is None:
                raise UserError(
                    f"{who} asks for a judge, but the recipe names none; set "
                    "reward.judge.model (and reward.judge.url for a server), or give the question a rule"
                )
            self._panel = Panel(self.reward.judge, self.folder)
        return self._panel


def ask_judge(reward: Reward, questions: Sequence[Question], folder: Path) -> None:
    """Have the judge say something, before hours are spent on what it is to score; one process asks.

    Raises:
        UserError: a question is for a judge, and there is none that can be asked.
    """
    if any((question.metric or reward.metric) == JUDGE for question in questions):
        if processes.state().is_main_process:
            with Scorer(reward, folder) as scorer:
                scorer.check()
        processes.state().wait_for_everyone()


def _unasked(item: Item) -> Verdict | None:
    """0 for a response that is wrong whatever rule or judge would say: an empty one (METHOD 5), and one that was cut,
    since nobody knows how it would have ended (ours)."""
    if not item.response.strip():
        return Verdict(0.0, "rule:empty")
    return Verdict(0.0, "rule:cut") if item.cut else None


def _by_rule(item: Item) -> Verdict:
    score = _unasked(item)
    return score or Verdict(metrics.best_score(item.metric, item.response, item.accepted), f"rule:{item.metric}")
