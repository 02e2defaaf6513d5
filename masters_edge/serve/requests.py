"""What may be asked: the body of POST /v1/chat/completions in, one picture and one question out.

What a student's prompt or greedy decoding can't do is refused with a sentence, never dropped.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from masters_edge.serve import pictures
from masters_edge.serve.refusals import Refused

MAX_STOPS = 4  # as at OpenAI

# Parameters that may only say what happens anyway: their values, and why no other.
_ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "temperature": ((0,), "answers are greedy"),
    "n": ((1,), "a greedy answer has no variants"),
    "logprobs": ((False,), "probabilities are not given"),
    "top_logprobs": ((0,), "probabilities are not given"),
    "presence_penalty": ((0,), "answers are greedy"),
    "frequency_penalty": ((0,), "answers are greedy"),
    "logit_bias": (({},), "answers are greedy"),
    "tools": (([],), "the student's prompt has no tools"),
    "tool_choice": (("none", "auto"), "the student's prompt has no tools"),
    "response_format": (({"type": "text"},), "the student answers in plain text"),
    "modalities": ((["text"],), "the student answers in plain text"),
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ImageUrl(_Model):
    url: str
    detail: str | None = None  # a student sees every picture in its one way


class Part(_Model):
    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None


class Message(_Model):
    role: str
    content: list[Part] | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _as_parts(cls, content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content


class StreamOptions(_Model):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(_Model):
    """OpenAI's request, as far as a student can answer it."""

    model: str
    messages: list[Message]
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Held to `_ONLY`.
    temperature: Any = None
    n: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    logit_bias: Any = None
    tools: Any = None
    tool_choice: Any = None
    response_format: Any = None
    modalities: Any = None
    # Change nothing about a greedy answer.
    top_p: Any = None
    seed: Any = None
    user: Any = None
    metadata: Any = None
    store: Any = None
    parallel_tool_calls: Any = None
    service_tier: Any = None
    safety_identifier: Any = None

    @field_validator("stop", mode="before")
    @classmethod
    def _as_list(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop


@dataclass(frozen=True)
class Asked:
    """One question about one picture; `picture` holds the file's bytes, its header looked at, and `where` its place.

    `max_tokens` None leaves the length to the student's own settings.
    """

    model: str
    picture: bytes
    where: str
    question: str
    max_tokens: int | None
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool


def read(body: bytes) -> Asked:
    """What the body asks; raises Refused (400) with the first thing that is wrong or can't be done."""
    try:
        text = body.decode()
        found = json.loads(text)
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Refused(400, "the request holds half of a character (a lone surrogate); write the text anew") from None
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the request's body is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise Refused(400, "the request's body must be a JSON object with model and messages")
    try:
        request = ChatRequest.model_validate(found)
    except ValidationError as error:
        raise _refusal(error) from None
    _hold_to_greedy(request)
    place, message = _only_question(request.messages)
    picture, where, question = _picture_and_text(message.content or [], f"messages[{place}].content")
    options = request.stream_options
    return Asked(
        model=request.model,
        picture=picture,
        where=where,
        question=question,
        max_tokens=_max_tokens(request),
        stops=_stops(request.stop),
        stream=bool(request.stream),
        include_usage=bool(options and options.include_usage),
    )


def _hold_to_greedy(request: ChatRequest) -> None:
    for name, (allowed, why) in _ONLY.items():
        value = getattr(request, name)
        if value is not None and not any(value == one and not _mixed(value, one) for one in allowed):
            may = " or ".join(json.dumps(one) for one in allowed)
            raise Refused(
                400, f"{name} can't be {json.dumps(value)[:80]} here: {why}; leave it out, or say {may}", param=name
            )


def _mixed(value: Any, allowed: Any) -> bool:
    """True and 1 are equal in Python, and not in JSON."""
    return isinstance(value, bool) != isinstance(allowed, bool)


def _only_question(messages: list[Message]) -> tuple[int, Message]:
    """The one user message and its place; empty system messages are let through."""
    users = []
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if message.role == "user":
            users.append((place, message))
        elif message.role in ("system", "developer"):
            if any(part.type != "text" or (part.text or "").strip() for part in message.content or []):
                raise Refused(
                    400,
                    f"{where} is a {message.role} message, and the student's prompt has no place for one: it holds one "
                    "picture and one question; put what matters into the question",
                    param=where,
                )
        else:
            raise Refused(
                400,
                f"{where} has the role {message.role!r}; the student answers one question at a time and can't read "
                "earlier turns: send the one question alone, as a user message",
                param=where,
            )
    if len(users) != 1:
        raise Refused(
            400,
            f"there are {len(users)} user messages; send exactly one, with a picture and a question",
            param="messages",
        )
    return users[0]


def _picture_and_text(parts: list[Part], where: str) -> tuple[bytes, str, str]:
    """The picture's bytes, its place in the request, and the question; several text parts become lines."""
    texts, urls = [], []
    for place, part in enumerate(parts):
        here = f"{where}[{place}]"
        if part.type == "text":
            if part.text is None or part.image_url is not None:
                raise Refused(400, "a part of type text needs a text, and nothing else", param=here)
            texts.append(part.text)
        else:
            if part.image_url is None or part.text is not None:
                raise Refused(400, "a part of type image_url needs an image_url, and nothing else", param=here)
            urls.append((f"{here}.image_url.url", part.image_url.url))
    if len(urls) != 1:
        raise Refused(400, f"the question has {len(urls)} pictures; the student answers about exactly one", param=where)
    question = "\n".join(texts)
    if not question.strip():
        raise Refused(400, "the question is empty; add a text part with it", param=where)
    place_of_url, url = urls[0]
    picture = pictures.read_url(url, place_of_url)
    pictures.check(picture, place_of_url)
    return picture, place_of_url, question


def _max_tokens(request: ChatRequest) -> int | None:
    old, new = request.max_tokens, request.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise Refused(400, f"max_tokens is {old} and max_completion_tokens {new}; send one of them", param="max_tokens")
    return old if new is None else new


def _stops(stops: list[str] | None) -> tuple[str, ...]:
    if stops and (len(stops) > MAX_STOPS or not all(stops)):
        raise Refused(400, f"stop holds up to {MAX_STOPS} sequences, none of them empty", param="stop")
    return tuple(stops or ())


def _refusal(error: ValidationError) -> Refused:
    """pydantic's first complaint as a sentence, the place written as in JavaScript."""
    first = error.errors(include_url=False)[0]
    where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"]).removeprefix(".")
    if first["type"] == "extra_forbidden":
        return Refused(
            400, f"{where} is nothing this server knows; leave it out", param=where, code="unknown_parameter"
        )
    if first["type"] == "missing":
        return Refused(400, f"{where} is missing", param=where, code="missing_required_parameter")
    said = "Input should be an object" if first["type"] == "model_type" else first["msg"]
    return Refused(400, f"{where}: {said[0].lower()}{said[1:]}", param=where)
