"""Answers in OpenAI's format: a completion, the chunks of a stream, the list of models. Nothing is sent from here."""

import json
import time
import uuid
from typing import Any

from masters_edge.runtime import Answer


class Reply:
    """One answer's messages, all under one id."""

    def __init__(self, model: str, stop_ids: frozenset[int]) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._stop_ids = stop_ids

    def whole(self, text: str, answer: Answer, cut: bool) -> dict[str, Any]:
        """The answer to a request that is no stream. `cut`: whether a stop sequence ended the text."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason(answer, cut)}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": usage(answer),
            "timings": timings(answer),
        }

    def first(self) -> dict[str, Any]:
        """The chunk that opens a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> dict[str, Any]:
        """A chunk with the next piece of the text."""
        return self._chunk({"content": text})

    def last(self, answer: Answer, cut: bool) -> dict[str, Any]:
        """The chunk that says why the text ends, and what it cost."""
        return {**self._chunk({}, self._reason(answer, cut)), "timings": timings(answer)}

    def usage(self, answer: Answer) -> dict[str, Any]:
        """The chunk after the last, for who asked for `include_usage`."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage(answer)}

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _reason(self, answer: Answer, cut: bool) -> str:
        return "stop" if cut or answer.token_ids[-1] in self._stop_ids else "length"


def usage(answer: Answer) -> dict[str, int]:
    """Tokens of the prompt, the picture's among them, and of the answer, the one that ended it among them."""
    prompt, completion = answer.prompt_tokens, len(answer.token_ids)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def timings(answer: Answer) -> dict[str, float | None]:
    """What the answer took on this server; no part of OpenAI's format, and ignored by its clients."""
    names = ("preprocess_ms", "vision_ms", "prefill_ms", "ttft_ms", "decode_tokens_per_s", "total_ms")
    return {name: getattr(answer, name) for name in names}


def sse(event: dict[str, Any] | str) -> bytes:
    """One event of a stream, as server-sent events are written."""
    text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
    return f"data: {text}\n\n".encode()
