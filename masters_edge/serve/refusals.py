"""The one exception of a server: an HTTP status and a sentence. How the answer says it is each server's own format."""

from typing import Any

_KINDS = {401: "authentication_error", 404: "not_found_error", 500: "server_error", 503: "overloaded_error"}


class Refused(Exception):
    """Why a request gets no answer. `more` is what a client can read beside the sentence: for `openai_error`, `param`
    names the part of the request that is meant, and `code` is OpenAI's short name of the mistake where it has one."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.more = status, message, more


def openai_error(refused: Refused) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = _KINDS.get(refused.status, "server_error" if refused.status > 500 else "invalid_request_error")
    named = {"param": refused.more.get("param"), "code": refused.more.get("code")}
    return {"error": {"message": refused.message, "type": kind, **named}}
