"""A judge at work: responses in, verdicts out, each question asked once and kept.

It asks for an explanation with a tagged score; replies without a tag go through the parsing prompt; what has no score
then stays unscored. Who answers, a server or a model in this process, is behind `Voice`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from masters_edge.recipe.schema import Judge
from masters_edge.rewards.accuracy import Item, Verdict
from masters_edge.rewards.judge import prompt
from masters_edge.rewards.judge.cache import Cache, key


@dataclass(frozen=True, slots=True)
class Reply:
    """What the judge said to one prompt; `text` is None where it said nothing, and `error` says why."""

    text: str | None
    error: str = ""


class Voice(Protocol):
    """Whoever answers prompts."""

    def replies(self, prompts: Sequence[str]) -> Iterator[list[tuple[int, Reply]]]:
        """(place, reply) of every prompt, in lists as they come in."""

    def close(self) -> None: ...


def open_voice(judge: Judge) -> Voice:
    """The recipe's judge: a server where it has a url, else a model in this process."""
    if judge.url is not None:
        from masters_edge.rewards.judge.endpoint import Endpoint

        return Endpoint(judge)
    from masters_edge.rewards.judge.local import Local

    return Local(judge)


Kept = tuple[float | None, str]
"""Score and explanation."""


class Panel:
    """The recipe's judge and the verdicts it gave before. The model is opened when a verdict is missing."""

    def __init__(self, judge: Judge, folder: Path) -> None:
        self.judge = judge
        self.name = f"judge:{judge.model}"
        self._cache = Cache(folder)
        self._voice: Voice | None = None

    def close(self) -> None:
        self._cache.close()
        if self._voice is not None:
            self._voice.close()

    def check(self) -> None:
        """Have the judge say something, whatever it is. Raises UserError where it can't be loaded or reached."""
        for _ in self._said({"": prompt.judging("What is in the picture?", ["a cat"], "a cat")}, {}):
            pass

    def verdicts(self, items: Sequence[Item], on_progress: Callable[[int], None] | None = None) -> list[Verdict]:
        """A verdict per item, in order; equal items are asked once. What the judge said is kept; a request that failed
        isn't, so that a later call asks it again."""
        keys = [self._key(item) for item in items]
        found = {k: kept for k in dict.fromkeys(keys) if (kept := self._cache.get(k)) is not None}
        advance = on_progress or (lambda _: None)
        advance(sum(k in found for k in keys))
        missing = {k: item for k, item in zip(keys, items) if k not in found}
        failed: dict[str, str] = {}
        for settled in self._ask(missing, failed):
            self._cache.put((k, score, why) for k, (score, why) in settled.items())
            found |= settled
            advance(sum(k in settled for k in keys))
        found |= {k: (None, error) for k, error in failed.items()}
        advance(sum(k in failed for k in keys))
        return [Verdict(found[k][0], self.name, found[k][1]) for k in keys]

    def _key(self, item: Item) -> str:
        accepted = list(dict.fromkeys(item.accepted))
        return key(self.judge.model, self.judge.url, prompt.VERSION, item.question, accepted, item.response)

    def _ask(self, missing: dict[str, Item], failed: dict[str, str]) -> Iterator[dict[str, Kept]]:
        """(score, why) by key, as they are settled; the errors of requests that failed go to `failed`."""
        untagged: dict[str, str] = {}
        asked = {k: prompt.judging(item.question, item.accepted, item.response) for k, item in missing.items()}
        for said in self._said(asked, failed):
            scores = {k: prompt.score(text) for k, text in said.items()}
            untagged |= {k: said[k] for k, score in scores.items() if score is None}
            yield {k: (score, prompt.spoken(said[k])) for k, score in scores.items() if score is not None}
        for said in self._said({k: prompt.parsing(text) for k, text in untagged.items()}, failed):
            yield {k: (prompt.parsed(text), prompt.spoken(untagged[k])) for k, text in said.items()}

    def _said(self, prompts: dict[str, str], failed: dict[str, str]) -> Iterator[dict[str, str]]:
        """What the judge says to each prompt, by key, as it comes in."""
        if not prompts:
            return
        if self._voice is None:
            self._voice = open_voice(self.judge)
        keys = list(prompts)
        for replies in self._voice.replies(list(prompts.values())):
            failed |= {keys[place]: reply.error for place, reply in replies if reply.text is None}
            yield {keys[place]: reply.text for place, reply in replies if reply.text is not None}
