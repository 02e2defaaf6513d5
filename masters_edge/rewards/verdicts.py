"""What is scored, and what came out: the words that rules and judges share."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """One response to score. `accepted`: every answer that counts as right, at least one. `cut`: it ended where
    `max_new_tokens` did, not where it was over."""

    question_id: str
    question: str
    response: str
    accepted: tuple[str, ...]
    metric: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """`score` in [0, 1], or None where the judge failed; `by` says who scored: `rule:<name>` or `judge:<model>`.

    `why` is the judge's own explanation, or what went wrong where there is no score; empty for rules.
    """

    score: float | None
    by: str
    why: str = ""
