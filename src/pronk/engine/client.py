"""Talks to any OpenAI-compatible URL, ours included, with Python's own library alone: chats, texts, rewards.

Judges, the feedback page and remote rollouts use it. It needs neither torch nor an HTTP package.
"""

import http.client
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from typing import IO, Any
from urllib.parse import urlsplit

from pronk.errors import UserError

AGAIN = (429, 503)  # the server is full, or still loading
LONGEST_PAUSE = 30.0  # seconds between two tries
LOOPBACK = ("localhost", "127.0.0.1", "::1")
Json = Mapping[str, Any]
Messages = Sequence[Mapping[str, str]]


class ServerError(UserError):
    """The server refused, or could not be reached (status 0)."""

    def __init__(self, message: str, status: int = 0, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Answer:
    """One answer. tokens and logps are empty unless asked for with logprobs; ids are pronk's own (return_token_ids)."""

    text: str
    finish: str  # "stop" or "length"
    tokens: tuple[str, ...] = ()
    logps: tuple[float | None, ...] = ()
    ids: tuple[int, ...] = ()


class Client:
    """A server and, unless given, the first model it names. One call is one request; calls may come from any thread."""

    def __init__(
        self, url: str, model: str | None = None, key: str | None = None, timeout: float = 600, retries: int = 5
    ) -> None:
        """url: as http://127.0.0.1:8000, with or without /v1. timeout: seconds of silence before a request is given
        up. retries: how often to come again when the server is full or still loading."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{url!r} is no server's address: it should look like http://127.0.0.1:8000")
        self.root = url.rstrip("/").removesuffix("/v1")
        self.key, self.timeout, self.retries = key, timeout, retries
        self._model = model
        proxies = [urllib.request.ProxyHandler({})] if parts.hostname in LOOPBACK else []
        self._opener = urllib.request.build_opener(_StayHere, *proxies)

    @property
    def model(self) -> str:
        if self._model is None:
            names = self.models()
            if not names:
                raise ServerError(f"{self.root} serves no model")
            self._model = names[0]
        return self._model

    def health(self) -> bool:
        """Whether the server is there and ready."""
        try:
            self._json("/health", retries=0)
        except ServerError:
            return False
        return True

    def models(self) -> list[str]:
        with self._understood("/v1/models"):
            return [str(card["id"]) for card in self._json("/v1/models")["data"]]

    def chat(self, messages: Messages, **fields: Any) -> list[Answer]:
        """The n answers to a conversation. fields: temperature, max_tokens, n, seed, stop, .. as OpenAI's."""
        body = {"model": self.model, "messages": list(messages), **fields}
        return self._choices("/v1/chat/completions", body, _chat_answer)

    def chat_stream(self, messages: Messages, **fields: Any) -> Iterator[str]:
        """The answer's text as it comes; leaving the loop ends it on the server too."""
        body = {"model": self.model, "messages": list(messages), **fields}
        for choice in self._stream("/v1/chat/completions", body):
            yield (choice.get("delta") or {}).get("content") or ""

    def complete(self, prompts: str | Sequence[str] | Sequence[Sequence[int]], **fields: Any) -> list[Answer]:
        """Continuations of texts or of token ids, the n of one prompt together."""
        asked = prompts if isinstance(prompts, str) else [one if isinstance(one, str) else list(one) for one in prompts]
        body = {"model": self.model, "prompt": asked, **fields}
        return self._choices("/v1/completions", body, _completion_answer)

    def complete_stream(self, prompt: str, **fields: Any) -> Iterator[str]:
        """As chat_stream, for a text."""
        for choice in self._stream("/v1/completions", {"model": self.model, "prompt": prompt, **fields}):
            yield choice.get("text") or ""

    def score(self, conversations: Sequence[Messages]) -> list[float]:
        """A reward model's score of each whole conversation (pronk's own route)."""
        body = {"model": self.model, "conversations": [list(one) for one in conversations]}
        with self._understood("/v1/score"):
            rows = sorted(self._json("/v1/score", body)["data"], key=lambda row: row["index"])
            return [float(row["score"]) for row in rows]

    def _choices(self, path: str, body: Json, read: Callable[[Json], Answer]) -> list[Answer]:
        found = self._json(path, body)
        with self._understood(path):
            return [read(choice) for choice in sorted(found["choices"], key=lambda choice: choice["index"])]

    @contextmanager
    def _understood(self, path: str) -> Iterator[None]:
        """In here a reply is read."""
        try:
            yield
        except (KeyError, TypeError, AttributeError) as error:
            raise ServerError(f"{self.root}{path}: the reply is not in OpenAI's shape ({error})") from None

    # ── HTTP

    def _stream(self, path: str, body: Json) -> Iterator[dict[str, Any]]:
        with self._open(path, {**body, "stream": True}) as response:
            try:
                for line in response:
                    data = line.decode("utf-8").removeprefix("data:").strip() if line.startswith(b"data:") else ""
                    if data == "[DONE]":
                        return
                    if data:
                        event = self._read(data, path)
                        if "error" in event:
                            raise ServerError(f"{self.root}{path}: {_said(event)}", 200)
                        yield from event.get("choices") or ()
            except (OSError, http.client.HTTPException) as error:
                raise ServerError(
                    f"{self.root}{path}: the stream broke off ({error or type(error).__name__})"
                ) from None
        raise ServerError(f"{self.root}{path}: the stream ended before the answer did")

    def _json(self, path: str, body: Json | None = None, retries: int | None = None) -> dict[str, Any]:
        try:
            with self._open(path, body, retries) as response:
                text = response.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(path, error) from None
        return self._read(text, path)

    def _read(self, text: str, path: str) -> dict[str, Any]:
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise ServerError(f"{self.root}{path}: not an OpenAI-compatible server, it answered {text[:80]!r}")
        return value

    def _open(self, path: str, body: Json | None = None, retries: int | None = None) -> Any:
        """The response; tries again, ever slower or when the server says, while it is full or loading."""
        headers = {"Content-Type": "application/json", "User-Agent": "pronk"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}".encode().decode("latin-1")  # sent as UTF-8
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data, headers)
        left = self.retries if retries is None else retries
        pause = 0.5
        while True:
            try:
                return self._opener.open(request, timeout=self.timeout)
            except urllib.error.HTTPError as error:
                with error:
                    refusal = self._refusal(path, error)
                if error.code not in AGAIN or not left:
                    raise refusal from None
                time.sleep(min(LONGEST_PAUSE, _seconds(error.headers.get("Retry-After"), pause)))
                left, pause = left - 1, 2 * pause
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(path, error) from None

    def _refusal(self, path: str, error: urllib.error.HTTPError) -> ServerError:
        try:
            told = json.loads(error.read(1 << 20))
        except (ValueError, OSError, http.client.HTTPException):
            told = {}
        inner = told.get("error") if isinstance(told, dict) else None
        code = inner.get("code") if isinstance(inner, dict) else None
        hint = "; give its key" if error.code == 401 else ""
        return ServerError(f"{self.root}{path}: {error.code}: {_said(told) or error.reason}{hint}", error.code, code)

    def _unreachable(self, path: str, error: Exception) -> ServerError:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ConnectionRefusedError):
            return ServerError(f"{self.root}: nobody answers there; is the server running? (pronk serve FOLDER)")
        if isinstance(reason, socket.gaierror):
            return ServerError(f"{self.root}: no such host")
        if isinstance(reason, TimeoutError):
            return ServerError(f"{self.root}{path}: no answer within {self.timeout:g} seconds")
        return ServerError(f"{self.root}{path}: {reason or type(reason).__name__}")


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirects: they would carry the key to another host."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


def _said(told: Any) -> str:
    """The message of an error object, in the shapes that servers use."""
    inner = told.get("error", told) if isinstance(told, dict) else told
    message = inner.get("message", "") if isinstance(inner, dict) else inner
    return str(message or "")


def _seconds(text: str | None, otherwise: float) -> float:
    try:
        return max(0.0, float(text or ""))
    except ValueError:  # a date, which few servers send
        return otherwise


def _chat_answer(choice: Json) -> Answer:
    entries = (choice.get("logprobs") or {}).get("content") or []
    tokens, logps = tuple(entry["token"] for entry in entries), tuple(entry["logprob"] for entry in entries)
    text = choice["message"].get("content") or ""
    return Answer(text, choice.get("finish_reason") or "", tokens, logps, tuple(choice.get("token_ids") or ()))


def _completion_answer(choice: Json) -> Answer:
    logprobs = choice.get("logprobs") or {}
    tokens, logps = tuple(logprobs.get("tokens") or ()), tuple(logprobs.get("token_logprobs") or ())
    return Answer(
        choice["text"], choice.get("finish_reason") or "", tokens, logps, tuple(choice.get("token_ids") or ())
    )
