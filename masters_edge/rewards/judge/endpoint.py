"""A judge behind an OpenAI-compatible server: several requests under way, each tried again, none lost in silence.

In: prompts. Out: replies as they come in. A request that still fails after its retries is a reply without text. A
server that answers nothing at all, at the start or from some moment on, is a UserError instead: what it would have
judged is worth waiting for.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from masters_edge.common.display import say
from masters_edge.common.errors import UserError
from masters_edge.common.servers import Background, client, first_choice, openai, short, text_of
from masters_edge.recipe.schema import Judge
from masters_edge.rewards.judge.replies import Reply

# The request's own fault (too long, refused content): another one may well be answered.
_OF_THIS_PROMPT = (400, 413, 422)
# Some servers take only their model's own sampling, or the newer name of the limit.
_OPTIONAL = {"temperature": None, "seed": None, "max_tokens": "max_completion_tokens"}


class EndpointJudge:
    """The chat completions of a server; text in, text out, temperature 0."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self._openai = openai()
        # The client asks for some key; servers that need none ignore it.
        key = os.environ.get(judge.api_key_env) or "none"
        self._client = client(judge.url or "", key, judge.timeout_s, judge.retries)
        self._background = Background()
        self._free = asyncio.Semaphore(judge.concurrency)
        self._fields: dict[str, Any] = {"temperature": 0.0, "max_tokens": judge.max_new_tokens}
        self._answered = False
        self._failed_in_a_row = 0

    def close(self) -> None:
        """Give up what is under way."""
        self._background.close(self._client.close)

    def replies(self, prompts: Sequence[str]) -> Iterator[list[tuple[int, Reply]]]:
        """(place, reply) of every prompt, in lists as they come in.

        Raises:
            UserError: the server can't be reached, refuses the key or the model; or stops answering.
        """
        waiting = list(range(len(prompts)))
        while waiting and not self._answered:  # one alone first: a server that isn't there is no reason to try them all
            place = waiting.pop(0)
            yield [(place, self._noted(self._background.run(self._ask(prompts[place]))))]
        under_way: dict[Future[tuple[Reply, bool]], int] = {}
        try:
            while waiting or under_way:
                # No more than can be under way: what was answered is written down before more is asked.
                while waiting and len(under_way) < self.judge.concurrency:
                    place = waiting.pop(0)
                    under_way[self._background.start(self._ask(prompts[place]))] = place
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                yield [(under_way.pop(future), self._noted(future.result())) for future in done]
        finally:
            for future in under_way:
                future.cancel()

    async def _ask(self, prompt: str) -> tuple[Reply, bool]:
        """The reply to one prompt, and whether it is the server's fault that there is none."""
        async with self._free:
            while True:
                fields = dict(self._fields)
                try:
                    choice = first_choice(
                        await self._client.chat.completions.create(
                            model=self.judge.model, messages=[{"role": "user", "content": prompt}], **fields
                        )
                    )
                except self._openai.APIStatusError as error:
                    if error.status_code == 400 and self._gave_up_a_field(str(error), fields):
                        continue
                    return Reply(None, _said(error)), error.status_code not in _OF_THIS_PROMPT
                except RecursionError as error:  # JSON too deep to be read
                    return Reply(None, _said(error)), False
                except (self._openai.OpenAIError, AttributeError, TypeError, ValueError) as error:
                    # Not reached, too slow, too much, or no chat completion: a proxy's page, JSON of another kind.
                    return Reply(None, _said(error)), True
                try:
                    return Reply(text_of(choice)), False
                except ValueError as error:  # a list, a number, half of a surrogate pair
                    return Reply(None, _said(error)), False

    def _gave_up_a_field(self, complaint: str, fields: dict[str, Any]) -> bool:
        """Leave out, or rename, a field that the server says it doesn't take."""
        if fields != self._fields:
            return True  # another request did
        for name, instead in _OPTIONAL.items():
            if name in fields and name in complaint:
                value = self._fields.pop(name)
                if instead is not None:
                    self._fields[instead] = value
                note = f", {instead} is sent" if instead else ""
                say(f"judge {self.judge.model}: the server takes no {name}{note}")
                return True
        return False

    def _noted(self, result: tuple[Reply, bool]) -> Reply:
        """The reply, unless too many failed."""
        reply, servers_fault = result
        if reply.text is not None:
            self._answered, self._failed_in_a_row = True, 0
            return reply
        self._failed_in_a_row += 1
        where = f"the judge {self.judge.model} at {self.judge.url}"
        if not self._answered and (servers_fault or self._failed_in_a_row >= 8):
            raise UserError(
                f"{where} doesn't answer ({reply.error}); start the server, or mend reward.judge.url, "
                f"reward.judge.model or the key in ${self.judge.api_key_env}"
            )
        if self._failed_in_a_row >= max(16, 2 * self.judge.concurrency):
            raise UserError(
                f"{where} stopped answering: {self._failed_in_a_row} requests in a row failed, the last with "
                f"{reply.error}; what it judged is kept, so mend the server and run the same command again"
            )
        return reply


def _said(error: BaseException) -> str:
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    return short(f"{type(error).__name__}: {error}{cause}", 200)
