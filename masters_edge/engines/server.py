"""Where a server is, whether it knows the model, and what its refusals mean to whoever wrote the recipe."""

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from masters_edge.common.errors import UserError
from masters_edge.common.servers import openai, short
from masters_edge.data.records import Question
from masters_edge.engines.base import Speaker
from masters_edge.recipe import served
from masters_edge.recipe.schema import Endpoint


def where(endpoint: Endpoint, speaker: Speaker) -> tuple[str, str]:
    """Address and model name for one speaker, templates filled in.

    Raises:
        UserError: a template with an unknown name, `{teacher}` for the student, a ratio that would be rounded, or an
            address and a name that are the same for every mask ratio.
    """
    filled = []
    for key in ("url", "model"):
        try:
            filled.append(served.filled(getattr(endpoint, key), speaker.ratio, speaker.teacher))
        except ValueError as error:
            raise UserError(f"{speaker}: the endpoint's {key} {error}") from None
    if speaker.ratio and not any("{ratio" in template for template in (endpoint.url, endpoint.model)):
        raise UserError(
            f"{speaker} can't come from {endpoint.url}, model {endpoint.model}: that is the same for every mask ratio, "
            "and a server masks nothing; write a checkpoint for each ratio with `masters-edge mask`, serve each, and "
            "put {ratio} into the endpoint's url or model"
        )
    url, model = filled
    if not url.startswith(("http://", "https://")):
        raise UserError(f"the endpoint's url is {url!r}; give all of it, such as http://localhost:8000/v1")
    return url, model


class Refusals:
    """Turns what goes wrong at one server into sentences."""

    def __init__(self, url: str, model: str, endpoint: Endpoint) -> None:
        self.url, self.model, self.endpoint = url, model, endpoint

    @contextmanager
    def __call__(self, question: Question | None = None, fields: dict[str, Any] | None = None) -> Iterator[None]:
        """Errors of the client, after all its retries, become a UserError."""
        client = openai()
        about = f"question {question.id}: " if question else ""
        tried = f"after {self.endpoint.retries} retries" if self.endpoint.retries else "and retries are 0"
        try:
            yield
        except client.APITimeoutError:
            raise UserError(
                f"{about}the server at {self.url} gave no answer within {self.endpoint.timeout_s:g} s, {tried}; look "
                "whether it hangs, or raise the endpoint's timeout_s or lower its concurrency"
            ) from None
        except client.APIConnectionError as error:
            cause = error.__cause__ or error
            raise UserError(
                f"{about}the server at {self.url} can't be reached, {tried} ({type(cause).__name__}: {short(cause)}); "
                "start it, or mend the endpoint's url"
            ) from None
        except client.APIStatusError as error:
            raise UserError(f"{about}{self._status(error, fields or {}, tried)}") from None
        except (client.APIError, ValueError, RecursionError) as error:  # no JSON, too much, or more than Python reads
            raise self.foreign(question, error) from None

    def foreign(self, question: Question | None, found: Any) -> UserError:
        """For an answer that no OpenAI-compatible server would give."""
        about = f"question {question.id}: " if question else ""
        return UserError(
            f"{about}what the server at {self.url} sent is no answer of an OpenAI-compatible server ({short(found)}); "
            "mend the endpoint's url, /v1 included, or look into the server's log"
        )

    def _status(self, error: Any, fields: dict[str, Any], tried: str) -> str:
        status, said = error.status_code, short(_message(error))
        start = f"the server at {self.url}"
        if status in (401, 403):
            return f"{start} refuses the key ({status}: {said}); put its key into ${self.endpoint.api_key_env}"
        if status == 404:
            return f"{start} has no such address or model ({status}: {said}); the url ends in /v1 as a rule"
        if status in (400, 422):
            if named := [name for name in fields if name in said]:
                return (
                    f"{start} refuses {', '.join(named)} ({status}: {said}); to leave it out, set the endpoint's body: "
                    f"{{{', '.join(f'{name}: null' for name in named)}}}, or, for `transformers serve`, body: "
                    "{generation_config: {}}"
                )
            return f"{start} refuses the request ({status}: {said})"
        if status == 429:
            return f"{start} turns requests down for being too many, {tried} ({said}); lower the endpoint's concurrency"
        return f"{start} failed, {tried} ({status}: {said}); look into its log"


async def check_model(client: Any, refusals: Refusals) -> None:
    """Raises UserError unless the client's server is there and lists the model."""
    with refusals():
        listed = await client.get("/models", cast_to=object)  # as it comes: the client's own type takes anything
    try:
        found = [str(model["id"]) for model in listed["data"]]
    except (KeyError, TypeError):
        raise refusals.foreign(None, listed) from None
    if refusals.model not in found:
        near = difflib.get_close_matches(refusals.model, found, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"it has: {', '.join(found[:10]) or 'none'}"
        raise UserError(f"the server at {refusals.url} has no model {refusals.model!r}; {hint}")


def _message(error: Any) -> str:
    """The server's own sentence, where its body has one."""
    body = error.body
    if isinstance(body, dict):
        said = body.get("message") or body.get("detail") or body
        return said if isinstance(said, str) else json.dumps(said)
    return error.response.text or error.message
