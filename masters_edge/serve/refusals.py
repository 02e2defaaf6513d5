"""The one exception of the server: an HTTP status and a sentence, in OpenAI's error format."""

from typing import Any

_KINDS = {401: "authentication_error", 404: "not_found_error", 500: "server_error", 503: "overloaded_error"}


class Refused(Exception):
    """Why a request gets no answer.

    `param` names the part of the request that is meant, `code` is OpenAI's short name of the mistake where it has one.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = _KINDS.get(self.status, "server_error" if self.status > 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
