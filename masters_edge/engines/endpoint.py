"""Responses from an OpenAI-compatible server: chat completions about an image in a data: URL, many under way at once.

One request per response, each with its own seed (never `n`), so that which others are asked for at the same time
changes nothing, and what is asked again after a kill is asked the same way. Sampling goes by the names that vLLM and
SGLang know (`top_k`, `repetition_penalty`), or, for `transformers serve`, as its `generation_config`
(docs/responses.md).
"""

import asyncio
import base64
import functools
import io
import json
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from PIL import Image

from masters_edge.common.display import say
from masters_edge.common.errors import UserError
from masters_edge.common.servers import Background, client, first_choice, short, text_of
from masters_edge.data.records import Question, open_image
from masters_edge.engines import tokens
from masters_edge.engines.base import Closing, Request, Speaker
from masters_edge.engines.prompts import check_prompt
from masters_edge.engines.server import Refusals, check_model, where
from masters_edge.families.generation import NEUTRAL
from masters_edge.recipe.schema import Endpoint, Responses

PROBE = "Which colour is this?"  # asked once, before the questions
_FIXED = ("messages", "model", "n", "stream", "seed")  # of a request; what `body` may not say


class EndpointEngine(Closing):
    """Answers requests through a server.

    Before anything else it asks whether the server is there, knows the model and takes the fields that will be sent.
    """

    def __init__(self, endpoint: Endpoint, responses: Responses, speaker: Speaker) -> None:
        self.endpoint, self.responses, self.speaker = endpoint, responses, speaker
        self.url, self.model = where(endpoint, speaker)
        if taken := [name for name in _FIXED if name in endpoint.body]:
            raise UserError(f"the endpoint's body says {taken[0]!r}, which each request says for itself; take it out")
        self.end_ids = tokens.end_ids(speaker)
        self.placeholders = speaker.placeholders
        self.refusals = Refusals(self.url, self.model, endpoint)
        self._api_key = os.environ.get(endpoint.api_key_env) or "none"  # the client insists on one
        with Background() as background:
            self._retokenized = not background.run(self._gives_ids())

    @property
    def name(self) -> str:
        """With what the recipe's `body` leaves out, and whether ids are this side's reading of the server's text."""
        sampling = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        missing = [f"without {name}" for name in sampling if self.endpoint.body.get(name, 0) is None]
        again = ["retokenized"] if self._retokenized else []
        return ", ".join([f"endpoint {self.url} {self.model}", *missing, *again])

    def answer(
        self,
        requests: Sequence[Request],
        sampling: Responses | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[list[int]]]:
        """As `AnyEngine.answer`: all or nothing."""
        with Background() as background:
            answers, prompts = background.run(self._all(requests, sampling, on_progress or (lambda done: None)))
        for request, prompt in zip(requests, prompts):
            if prompt is not None:
                check_prompt(self.speaker, request.question, prompt, f"the server at {self.url}", _OTHER_PROMPT)
        return answers

    def _client(self) -> Any:
        return client(self.url, self._api_key, self.endpoint.timeout_s, self.endpoint.retries)

    async def _gives_ids(self) -> bool:
        """Whether the server, which must be there and have the model, says which tokens it drew.

        It is asked for one, so that what it refuses is known at once.
        """
        fields = self._fields()
        fields |= {"max_tokens": 1} if "max_tokens" in fields else {}
        chat = _chat(_png(Image.new("RGB", (64, 64), "white")), PROBE)
        async with self._client() as asking:
            await check_model(asking, self.refusals)
            with self.refusals(None, fields):
                found = await asking.chat.completions.create(model=self.model, messages=chat, extra_body=fields)
        return getattr(self._choice(None, found)[0], "token_ids", None) is not None

    async def _all(
        self, requests: Sequence[Request], sampling: Responses | None, on_progress: Callable[[int], None]
    ) -> tuple[list[list[list[int]]], list[list[int] | None]]:
        """Answers, and the prompt of each request where the server shows its token ids."""
        free = asyncio.Semaphore(self.endpoint.concurrency)
        shown: list[list[int] | None] = [None] * len(requests)
        url_of = functools.lru_cache(maxsize=2 * self.endpoint.concurrency)(_data_url)
        cuts = 0

        async def one(asking: Any, place: int, question: Question, fields: dict[str, Any]) -> list[int]:
            nonlocal cuts
            async with free:
                chat = _chat(await asyncio.to_thread(url_of, question), question.text)
                with self.refusals(question, fields):
                    found = await asking.chat.completions.create(model=self.model, messages=chat, extra_body=fields)
                ids, prompt = self._read(question, found)
            shown[place] = shown[place] or prompt
            whole = tokens.cut(ids, self.end_ids, self.placeholders)
            cuts += len(ids) > len(whole) and ids[len(whole)] in self.placeholders
            return whole

        async def group(asking: Any, place: int, request: Request) -> list[list[int]]:
            every = [self._fields(sampling or self.responses, seed) for seed in request.seeds] or [self._fields()]
            found = await _gather([one(asking, place, request.question, fields) for fields in every])
            on_progress(1)
            return found

        async with self._client() as asking:
            answers = await _gather([group(asking, place, request) for place, request in enumerate(requests)])
        if cuts:
            say(f"{cuts} responses of {self.url} held an image placeholder and were cut there")
        return answers, shown

    def _fields(self, sampling: Responses | None = None, seed: int | None = None) -> dict[str, Any]:
        """All of a request's JSON but model and messages; greedy without `sampling`. `body` has the last word, and what
        it sets to null is left out."""
        own: dict[str, Any] = {"max_tokens": self.responses.max_new_tokens}
        own["seed"] = None if seed is None else tokens.narrow(seed)
        body = dict(self.endpoint.body)
        if "generation_config" in body:
            config = self._generation_config(sampling) | (body["generation_config"] or {})
            body["generation_config"] = json.dumps(config)
        else:
            # Said in full: what a request leaves out, servers take from the checkpoint's generation_config.json.
            own |= {
                "temperature": sampling.temperature if sampling else 0.0,
                "top_p": sampling.top_p if sampling else 1.0,
                "top_k": (sampling.top_k or -1) if sampling else -1,  # all: 0 or -1 at vLLM, -1 at SGLang
                "min_p": 0.0,
                "repetition_penalty": sampling.repetition_penalty if sampling else 1.0,
                "logit_bias": {str(token): -100 for token in self.placeholders} or None,
                "return_token_ids": True,
            }
        return {name: value for name, value in (own | body).items() if value is not None}

    def _generation_config(self, sampling: Responses | None) -> dict[str, Any]:
        """For `transformers serve`, which takes this instead of the checkpoint's own, ends and padding included."""
        config: dict[str, Any] = {
            **NEUTRAL,
            "do_sample": sampling is not None,
            "max_new_tokens": self.responses.max_new_tokens,
            "eos_token_id": self.end_ids,
            "pad_token_id": self.speaker.prompter.tokenizer.pad_token_id,
            "suppress_tokens": self.placeholders or None,
        }
        if sampling:
            names = ("temperature", "top_p", "top_k", "repetition_penalty")
            config |= {name: getattr(sampling, name) for name in names}
        return config

    def _read(self, question: Question, found: Any) -> tuple[list[int], list[int] | None]:
        """Token ids of one response, and those of its prompt where the server shows them."""
        choice, text = self._choice(question, found)
        reason = choice.finish_reason
        if reason not in ("stop", "length"):
            raise UserError(
                f"question {question.id}: the server at {self.url} ended its answer for the reason {short(reason)!r}, "
                "and only `stop` and `length` make a response; look into the server's log"
            )
        if self._retokenized:
            ids = tokens.retokenized(self.speaker.prompter.tokenizer, text)
        elif (given := _ids(getattr(choice, "token_ids", None))) is None:
            raise self.refusals.foreign(question, f"no token_ids, which it gave before: {found}")
        else:
            ids = given
        if reason == "stop" and (not ids or ids[-1] not in self.end_ids):
            ids = [*ids, self.end_ids[0]]  # servers leave it out of the text
        return ids, _ids(getattr(found, "prompt_token_ids", None))

    def _choice(self, question: Question | None, found: Any) -> tuple[Any, str]:
        """The one choice of a completion, and its text."""
        try:
            choice = first_choice(found)
            return choice, text_of(choice)
        except ValueError as error:
            raise self.refusals.foreign(question, error) from None


def _ids(found: Any) -> list[int] | None:
    """A server's list where it can be token ids; None where it is anything else."""
    whole = isinstance(found, list) and all(type(token) is int and 0 <= token < 2**31 for token in found)
    return found if whole else None


_OTHER_PROMPT = (
    "serve the very checkpoint with its own chat template and processor settings, or leave `return_token_ids` out "
    "(endpoint body: {return_token_ids: null}), which switches this check off"
)


async def _gather(every: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Results in order; the first that fails ends the others."""
    running = [asyncio.ensure_future(one) for one in every]
    try:
        return list(await asyncio.gather(*running))
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _chat(url: str, question: str) -> list[Any]:
    """One user message: the image first, as in training's prompts."""
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def _data_url(question: Question) -> str:
    """The image as training sees it (upright, on white, RGB)."""
    return _png(open_image(question))


def _png(image: Image.Image) -> str:
    """A data: URL; as PNG, nothing is lost on the way."""
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
