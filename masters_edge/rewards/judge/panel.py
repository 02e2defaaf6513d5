"""A judge at work: responses in, verdicts out, each reply kept and asked for once.

It asks for an explanation with a tagged score; replies without a tag go through the parsing prompt; what has no score
then stays unscored. Who answers, a server or a model in this process, is behind `Voice`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from masters_edge.recipe.schema import Judge
from masters_edge.rewards.judge import prompt
from masters_edge.rewards.judge.cache import Cache, key
from masters_edge.rewards.judge.replies import Reply, Voice
from masters_edge.rewards.verdicts import Item, Verdict
from masters_edge.scoring.thoughts import spoken


def open_voice(judge: Judge) -> Voice:
    """The recipe's judge: a server where it has a url, else a model in this process."""
    if judge.url is not None:
        from masters_edge.rewards.judge.endpoint import EndpointJudge

        return EndpointJudge(judge)
    from masters_edge.rewards.judge.local import LocalJudge

    return LocalJudge(judge)


class Panel:
    """The recipe's judge and the replies it gave before. The model is opened when a reply is missing."""

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
        for _ in self._opened().replies([prompt.judging("What is in the picture?", ["a cat"], "a cat")]):
            pass

    def verdicts(self, items: Sequence[Item], on_progress: Callable[[int], None] | None = None) -> list[Verdict]:
        """A verdict per item, in order; equal items are asked once. What the judge said is kept; a request that failed
        isn't, so that a later call asks it again."""
        asked = [prompt.judging(item.question, item.accepted, item.response) for item in items]
        counts = Counter(asked)
        found: dict[str, Verdict] = {}
        untagged: dict[str, list[str]] = {}  # second prompt -> the first ones whose replies it holds
        advance = on_progress or (lambda _: None)

        def settle(first: str, score: float | None, why: str) -> None:
            found[first] = Verdict(score, self.name, why)
            advance(counts[first])

        said: dict[str, str] = {}
        for first, reply in self._said(list(counts)):
            if reply.text is None:
                settle(first, None, reply.error)
            elif (score := prompt.score(reply.text)) is not None:
                settle(first, score, spoken(reply.text))
            else:
                said[first] = spoken(reply.text)
                untagged.setdefault(prompt.parsing(reply.text), []).append(first)
        for second, reply in self._said(list(untagged)):
            for first in untagged[second]:
                score = None if reply.text is None else prompt.parsed(reply.text)
                settle(first, score, said[first] if reply.text is not None else reply.error)
        return [found[first] for first in asked]

    def _said(self, prompts: Sequence[str]) -> Iterator[tuple[str, Reply]]:
        """(prompt, reply) of distinct prompts: first those that were answered before, then others as they come in."""
        missing = []
        for asked in prompts:
            if (kept := self._cache.get(self._key(asked))) is None:
                missing.append(asked)
            else:
                yield asked, Reply(kept)
        if not missing:
            return
        for replies in self._opened().replies(missing):
            here = [(missing[place], reply) for place, reply in replies]
            self._cache.put((self._key(asked), reply.text) for asked, reply in here if reply.text is not None)
            yield from here

    def _key(self, asked: str) -> str:
        """Question, labels and response stand in the prompt."""
        return key(self.judge.model, self.judge.url, prompt.VERSION, asked)

    def _opened(self) -> Voice:
        if self._voice is None:
            self._voice = open_voice(self.judge)
        return self._voice
