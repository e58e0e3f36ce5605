"""The requests that the server takes: their shapes, their limits, and the sampling they ask for; encodes nothing."""

import logging
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pronk.engine.refusal import Refusal, from_user_error
from pronk.engine.sequence import Sampling
from pronk.errors import UserError

log = logging.getLogger("pronk.serve")
REMEMBERED = 200  # names of unknown fields that are warned of, each once
SEEDS = 1 << 63


@dataclass(frozen=True)
class Limits:
    """What one client may ask of a server."""

    body: int = 1 << 20
    """longest body of a request, bytes"""
    headers: int = 16 << 10
    """longest headers together, bytes"""
    n: int = 8
    """answers to a prompt"""
    prompts: int = 256
    """prompts, or conversations to score, in one request"""
    stops: int = 16
    """stop texts"""
    stop_length: int = 64
    """characters of a stop text"""
    biases: int = 1024
    """tokens in a logit_bias"""
    logprobs: int = 20
    """likeliest tokens told for a place"""
    queue: int = 64
    """answers that may wait for a slot; beyond them requests are refused with 429"""
    seconds: float = 600
    """longest time a request may take"""
    slow: float = 30
    """seconds in which a client must send its request, or take what it is sent"""


class Body(BaseModel):
    """Any JSON object; fields that are not known are kept, so that they can be warned of."""

    model_config = ConfigDict(extra="allow")


class StreamOptions(Body):
    include_usage: bool | None = None


class Asked(Body):
    """What both kinds of generation share; None everywhere = not said."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    return_token_ids: bool | None = None


class Part(Body):
    type: str
    text: str | None = None


class ChatMessage(Body):
    role: str
    content: str | list[Part] | None = None


class ChatRequest(Asked):
    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None


class CompletionRequest(Asked):
    prompt: str | list[str] | list[int] | list[list[int]] | None = None
    logprobs: int | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None


class ScoreRequest(Body):
    model: str | None = None
    conversations: list[list[ChatMessage]] | None = None
    prompt: str | list[ChatMessage] | None = None
    answers: list[str] | None = None


class TokenizeRequest(Body):
    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool = False
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(Body):
    model: str | None = None
    tokens: list[int]


@dataclass(frozen=True)
class Said:
    """A message, as the chat template takes it."""

    role: str
    content: str


def said(message: ChatMessage, param: str) -> Said:
    """Text parts are joined; OpenAI's newer name for the system is understood."""
    content = message.content or ""
    if not isinstance(content, str):
        if any(part.type != "text" or part.text is None for part in content):
            raise Refusal(400, "this server reads text only: each part of a content needs type text", param=param)
        content = "".join(part.text or "" for part in content)
    return Said("system" if message.role == "developer" else message.role, content)


def warn_of_unknown(body: BaseModel, warned: set[str]) -> None:
    """Log each unknown field's name once; at most REMEMBERED names, since clients choose them."""
    for name in body.model_extra or {}:
        if name not in warned and len(warned) < REMEMBERED:
            warned.add(name)
            log.warning("ignored the unknown field %r of a request", name[:100])
    for child in (value for value in vars(body).values() if isinstance(value, BaseModel)):
        warn_of_unknown(child, warned)


def check(asked: Asked, limits: Limits) -> None:
    """Refuse what this server does not do, rather than do something else."""
    _range("n", asked.n, 1, limits.n)
    stops = _stops(asked)
    if len(stops) > limits.stops or any(len(stop) > limits.stop_length for stop in stops):
        raise Refusal(
            400, f"stop takes at most {limits.stops} texts of at most {limits.stop_length} characters", param="stop"
        )
    if not all(stops):
        raise Refusal(400, "stop takes texts of at least one character", param="stop")
    if asked.stream_options is not None and not asked.stream:
        raise Refusal(400, "stream_options is allowed only where stream is true", param="stream_options")
    _range("presence_penalty", asked.presence_penalty, -2, 2)
    _range("frequency_penalty", asked.frequency_penalty, -2, 2)
    for bias in (asked.logit_bias or {}).values():
        _range("logit_bias", bias, -100, 100)
    if len(asked.logit_bias or {}) > limits.biases:
        raise Refusal(400, f"logit_bias takes at most {limits.biases} token ids", param="logit_bias")
    for key in asked.logit_bias or {}:
        if not key.isdecimal():
            raise Refusal(400, f"logit_bias names tokens by their ids, not {key[:100]!r}", param="logit_bias")
    if isinstance(asked, ChatRequest):
        _check_chat(asked, limits)
    elif isinstance(asked, CompletionRequest):
        _range("logprobs", asked.logprobs, 0, limits.logprobs)
        if asked.suffix:
            raise Refusal(400, "suffix is not done by this server", param="suffix")
        if asked.best_of not in (None, asked.n or 1):
            raise Refusal(400, "best_of must equal n", param="best_of")


def _check_chat(asked: ChatRequest, limits: Limits) -> None:
    _range("top_logprobs", asked.top_logprobs, 0, limits.logprobs)
    if asked.top_logprobs is not None and not asked.logprobs:
        raise Refusal(400, "top_logprobs is allowed only where logprobs is true", param="top_logprobs")
    for name in ("tools", "functions"):
        if getattr(asked, name):
            raise Refusal(400, f"{name} are not known to this server's models", param=name)
    if (asked.response_format or {}).get("type", "text") != "text":
        raise Refusal(400, "response_format can only be text", param="response_format")


def _range(name: str, value: float | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise Refusal(400, f"{name} must be from {least} to {most}, not {value}", param=name)


def _stops(asked: Asked) -> tuple[str, ...]:
    return () if asked.stop is None else (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop)


def to_sampling(asked: Asked, max_tokens: int, stop: tuple[int, ...], defaults: dict[str, Any]) -> Sampling:
    """The request's wishes, then the model folder's, then none. A negative seed is folded into the positive ones."""
    wishes = {name: getattr(asked, name) for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")}
    chosen = {name: defaults.get(name) if wish is None else wish for name, wish in wishes.items()}
    seed = asked.seed
    if seed is not None and not -SEEDS <= seed < SEEDS:
        raise Refusal(400, "seed must be a whole number of 64 bits", param="seed")
    try:
        return Sampling(
            max_tokens=max_tokens,
            seed=None if seed is None else seed % SEEDS,
            stop=stop,
            stop_texts=_stops(asked),
            n=asked.n or 1,
            presence_penalty=asked.presence_penalty or 0.0,
            frequency_penalty=asked.frequency_penalty or 0.0,
            logit_bias=tuple((int(token), bias) for token, bias in (asked.logit_bias or {}).items()),
            **{name: value for name, value in chosen.items() if value is not None},
        )
    except UserError as error:
        refusal = from_user_error(error)
        refusal.param = refusal.param or str(error).split(" ", 1)[0]
        raise refusal from None
