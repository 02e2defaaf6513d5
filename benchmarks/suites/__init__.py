"""What is asked: a suite is a named list of questions with labels and the metric that scores the answers.

Built-in suites are found by name, one file each; `open_suite` makes one of a user's own data too, `from_questions` of
questions at hand.
"""

import difflib
import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path

from masters_edge.common.errors import UserError
from masters_edge.common.files import at_home
from masters_edge.data.fingerprint import fingerprint
from masters_edge.data.records import Question
from masters_edge.scoring import metrics

# name -> module below this folder, which has `load() -> Suite`
_BUILT_IN = {"easy-vqa": "easy_vqa"}


@dataclass(frozen=True)
class Suite:
    """Questions, all labelled, and the metric (`masters_edge.scoring.metrics`) that scores answers to those of them
    that have none of their own."""

    name: str
    metric: str
    questions: tuple[Question, ...]

    @property
    def scored_by(self) -> str:
        """The metrics, as a report names them: `exact_match`, or `anls (40), exact_match (60)` where they differ."""
        used = Counter(question.metric or self.metric for question in self.questions)
        if set(used) == {self.metric}:
            return self.metric
        return ", ".join(f"{name} ({count})" for name, count in sorted(used.items()))

    def readable(self) -> tuple["Suite", dict[str, str]]:
        """The questions whose image can be decoded, and a sentence for each of the others, by question id.

        Raises:
            UserError: no image can be.
        """
        from masters_edge.data.images import broken_images

        broken = broken_images(self.questions)
        kept = tuple(question for question in self.questions if question.image_id not in broken)
        unanswered = {
            question.id: f"question {question.id}: {broken[question.image_id].partition(': ')[2]}"
            for question in self.questions
            if question.image_id in broken
        }
        if not kept:
            raise UserError(f"suite {self.name}: no image of it can be read ({next(iter(broken.values()))}); mend them")
        return replace(self, questions=kept), unanswered

    @cached_property
    def sha256(self) -> str:
        """A fingerprint of what is asked, how it is scored, and in which order."""
        return hashlib.sha256(f"{self.metric} {fingerprint(self.questions)}".encode()).hexdigest()

    def take(self, count: int | None, seed: int = 0) -> "Suite":
        """At most `count` of the questions, drawn at random with a fixed seed, in the suite's order; None for all."""
        if count is None or count >= len(self.questions):
            return self
        if count < 1:
            raise UserError(f"suite {self.name}: asking {count} questions measures nothing; ask at least 1")
        chosen = sorted(random.Random(seed).sample(range(len(self.questions)), count))
        return replace(self, questions=tuple(self.questions[i] for i in chosen))


@dataclass(frozen=True)
class SuiteChoice:
    """What to ask, as somebody says it; whoever says nothing gets the test questions of the recipe at hand."""

    source: str | None = None
    """A built-in suite's name, or what `masters_edge.data.read` reads."""
    metric: str | None = None
    """How answers are scored; None for the suite's own way."""
    split: str | None = None
    """Of `source`."""
    name: str | None = None
    """What reports call it."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Of a user's own data: `image_column`, `question_column`, `answer_column`, `metric_column`."""


def names() -> list[str]:
    return sorted(_BUILT_IN)


def load(name: str) -> Suite:
    """The built-in suite of that name, or a UserError with the nearest one."""
    if name not in _BUILT_IN:
        near = difflib.get_close_matches(name, _BUILT_IN, n=1)
        hint = f"did you mean {near[0]!r}" if near else f"use one of: {', '.join(names())}"
        raise UserError(f"there is no suite {name!r}; {hint}")
    return import_module(f"{__name__}.{_BUILT_IN[name]}").load()


def open_suite(
    source: str,
    *,
    metric: str | None = None,
    split: str | None = None,
    name: str | None = None,
    base: Path = Path(),
    **columns: str,
) -> Suite:
    """A built-in suite by name, or one of any source that `masters_edge.data.read` reads (JSON lines, Parquet, a
    folder, a `datasets` data set), scored by `metric`; without one, by the built-in suite's own or by exact match.

    `columns`: `question_column`, `answer_column`, `image_column`, `metric_column` of a user's own data. A relative
    `source` starts at `base`. Raises UserError for an unknown metric, source, split or column, and for questions
    without an answer.
    """
    if metric is not None:
        metrics.get(metric)  # before anything is read
    local = (base / at_home(source)).exists()
    if source in _BUILT_IN and not local:
        if split is not None or columns:
            raise UserError(f"suite {source} is built in and has neither splits nor columns to choose; leave them out")
        suite = load(source)
        return replace(suite, name=name or suite.name, metric=metric or suite.metric)
    if not local and "/" not in source:
        beside = [path.name for path in base.iterdir()] if base.is_dir() else []
        near = difflib.get_close_matches(source, [*_BUILT_IN, *beside], n=1)
        if near or Path(source).suffix[1:].isalpha():  # no id of a data set on the hub
            hint = f"did you mean {near[0]!r}" if near else f"suites are: {', '.join(names())}"
            raise UserError(f"there is no suite {source!r}, nor a file or folder of that name; {hint}")
    from masters_edge import data

    questions = data.read(source, split=split, base=base, **columns)  # type: ignore[arg-type]
    own_name = (Path(source).stem if local else source) + (f" {split}" if split else "")
    return from_questions(questions, metric or "exact_match", name or own_name)


def from_questions(questions: Iterable[Question], metric: str, name: str = "own questions") -> Suite:
    """A suite of a user's own questions; each needs a label and an id of its own."""
    metrics.get(metric)
    asked = tuple(questions)
    if not asked:
        raise UserError(f"suite {name}: there are no questions in it; give at least one with an answer")
    unlabelled = [question.id for question in asked if question.answer is None]
    if unlabelled:
        raise UserError(
            f"suite {name}: {len(unlabelled)} of {len(asked)} questions have no answer (the first is {unlabelled[0]}); "
            "accuracy can be measured on labelled questions alone, so add their answers or leave them out"
        )
    judged = next((question.id for question in asked if question.metric == metrics.JUDGE), None)
    if judged is not None:
        raise UserError(
            f"suite {name}: question {judged} asks for a judge, but bench scores by rules alone; give it a metric: "
            f"{', '.join(metrics.names())}"
        )
    if len({question.id for question in asked}) < len(asked):
        raise UserError(f"suite {name}: two questions share an id; give each its own")
    return Suite(name=name, metric=metric, questions=asked)
