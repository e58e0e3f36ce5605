"""How the server says no: a status, a message and OpenAI's error object; knows nothing of web frameworks."""

from collections.abc import Mapping
from typing import Any

from pronk.errors import UserError

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
CODES = {401: "invalid_api_key", 413: "request_too_large", 431: "headers_too_large"}


class Refusal(Exception):
    """Ends a request with this status. param: the key that is wrong. headers: of the answer."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.headers = status, param, dict(headers or {})
        self.code = code or CODES.get(status)

    def body(self) -> dict[str, Any]:
        """OpenAI's error object; half characters in the message are replaced, so that it can be sent."""
        message = str(self).encode("utf-8", "replace").decode()
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}


def from_user_error(error: UserError) -> Refusal:
    """400; the key is the message's first word, where our checks begin with one."""
    first = str(error).split(" ", 1)[0]
    return Refusal(400, str(error), param=first if first.isidentifier() and "_" in first else None)


def too_long(prompt: int, answer: int, context: int, param: str) -> Refusal:
    """400 in the words that clients of OpenAI know."""
    return Refusal(
        400,
        f"This model's maximum context length is {context} tokens, but {prompt + answer} were asked for ({prompt} in "
        f"the prompt, {answer} for the answer): shorten the prompt or lower the answer's limit",
        param=param,
        code="context_length_exceeded",
    )


def busy(waiting: int) -> Refusal:
    """429: the openai client tries again after this many seconds."""
    return Refusal(
        429, f"{waiting} requests are waiting: try again soon", code="queue_full", headers={"Retry-After": "1"}
    )


def not_ready(why: str) -> Refusal:
    return Refusal(503, why, code="not_ready", headers={"Retry-After": "1"})
