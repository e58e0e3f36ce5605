"""The OpenAI-compatible server: its routes, and what they answer besides generation; which model is the caller's."""

import asyncio
import logging
import math
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from pronk.engine import protocol, server_metrics
from pronk.engine.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    Limits,
    ScoreRequest,
    TokenizeRequest,
    warn_of_unknown,
)
from pronk.engine.refusal import Refusal, too_long
from pronk.engine.replies import usage
from pronk.engine.server_answer import in_time, respond, unless_gone
from pronk.engine.server_guard import Guard
from pronk.engine.server_plan import encode_messages, plan_chat, plan_completions, tokenizer_ids
from pronk.engine.service import Served, Service

log = logging.getLogger("pronk.serve")


def create_app(
    service: Service,
    metrics: server_metrics.Metrics,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    key: str | None = None,
    hosts: frozenset[str] | None = None,
    settled: Callable[[], None] = lambda: None,
) -> FastAPI:
    """An ASGI application that starts the service when it starts. key, hosts: as Guard takes them. settled: called
    once the model is loaded, or cannot be."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start(settled)
        yield
        await asyncio.to_thread(service.close)

    routes = Routes(service, metrics, limits)
    app = FastAPI(title="pronk", lifespan=lifespan, docs_url=None, redoc_url=None)
    for path, method, route in routes.table():
        app.add_api_route(path, route, methods=[method], response_model=None)
    app.add_exception_handler(Refusal, routes.refused)
    app.add_exception_handler(HTTPException, routes.no_such_route)
    app.add_exception_handler(RequestValidationError, routes.malformed)
    app.add_exception_handler(Exception, routes.broken)
    app.add_middleware(Guard, limits=limits, key=key, hosts=hosts)
    return app


class Routes:
    """What each address does."""

    def __init__(self, service: Service, metrics: server_metrics.Metrics, limits: Limits) -> None:
        self.service, self.metrics, self.limits = service, metrics, limits
        self.warned: set[str] = set()
        metrics.watch(lambda: service.running, lambda: service.waiting)

    def table(self) -> list[tuple[str, str, Callable[..., Any]]]:
        return [
            ("/v1/chat/completions", "POST", self.chat),
            ("/v1/completions", "POST", self.completions),
            ("/v1/score", "POST", self.score),
            ("/v1/models", "GET", self.models),
            ("/v1/models/{name:path}", "GET", self.model),
            ("/tokenizer_info", "GET", self.tokenizer_info),
            ("/tokenize", "POST", self.tokenize),
            ("/detokenize", "POST", self.detokenize),
            ("/health", "GET", self.health),
            ("/metrics", "GET", self.counted),
        ]

    # ── generation

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        served = self.speaking(body, body.model)
        plan = await asyncio.to_thread(plan_chat, body, served, self.limits)
        return await respond(self.service, plan, request, self.limits)

    async def completions(self, body: CompletionRequest, request: Request) -> Response:
        served = self.speaking(body, body.model)
        plan = await asyncio.to_thread(plan_completions, body, served, self.limits)
        return await respond(self.service, plan, request, self.limits)

    # ── rewards

    async def score(self, body: ScoreRequest, request: Request) -> Response:
        served = self.serving(body, body.model)
        if served.score is None:
            raise Refusal(400, f"{served.name} is a language model: /v1/score needs a reward model's folder")
        rows = await asyncio.to_thread(self._rows, body, served)
        score = served.score
        async with in_time(self.limits):
            scores = await unless_gone(request, asyncio.wrap_future(self.service.do(lambda: score(rows))))
        if not all(map(math.isfinite, scores)):
            raise Refusal(500, "the reward model's scores are not finite: its weights hold NaN or infinity")
        data = [{"object": "score", "index": place, "score": value} for place, value in enumerate(scores)]
        counts = usage(sum(map(len, rows)), 0)
        return JSONResponse({"object": "list", "model": served.name, "data": data, "usage": counts})

    def _rows(self, body: ScoreRequest, served: Served) -> list[list[int]]:
        conversations = self._conversations(body)
        if len(conversations) > self.limits.prompts:
            raise Refusal(400, f"at most {self.limits.prompts} conversations in one request, not {len(conversations)}")
        rows = [encode_messages(served, one, answer=False) for one in conversations]
        longest = max(map(len, rows))
        if longest > served.context:
            raise too_long(longest, 0, served.context, "conversations")
        return rows

    @staticmethod
    def _conversations(body: ScoreRequest) -> list[list[protocol.ChatMessage]]:
        if (body.conversations is None) == (body.prompt is None or body.answers is None):
            raise Refusal(400, "give either conversations, or a prompt and its answers", param="conversations")
        if body.conversations is not None:
            found = body.conversations
        else:
            asked = body.prompt or ""
            start = [protocol.ChatMessage(role="user", content=asked)] if isinstance(asked, str) else asked
            found = [[*start, protocol.ChatMessage(role="assistant", content=text)] for text in body.answers or []]
        if not found or not all(found):
            raise Refusal(400, "there is nothing to score: a list is empty", param="conversations")
        return found

    # ── what is served

    async def models(self) -> Response:
        served = self.service.ready()
        return JSONResponse({"object": "list", "data": [self._card(served)]})

    async def model(self, name: str) -> Response:
        return JSONResponse(self._card(self.named(self.service.ready(), name)))

    def _card(self, served: Served) -> dict[str, Any]:
        return {
            "id": served.name,
            "object": "model",
            "created": served.since,
            "owned_by": "pronk",
            "max_model_len": served.context,
            "task": "generate" if served.engine else "score",
        }

    # ── the tokenizer

    async def tokenizer_info(self) -> Response:
        tokenizer = self.service.ready().tokenizer
        named = {name: tokenizer.named.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        info = {"tokenizer_class": "PreTrainedTokenizerFast", **named, "vocab_size": tokenizer.size}
        return JSONResponse({**info, "chat_template": tokenizer.template or None})

    async def tokenize(self, body: TokenizeRequest) -> Response:
        served = self.serving(body, body.model)
        if (body.prompt is None) == (body.messages is None):
            raise Refusal(400, "give either a prompt or messages", param="prompt")
        ids = await asyncio.to_thread(self._ids, body, served)
        strings = [served.pieces.text(token) for token in ids] if body.return_token_strs else None
        found = {"count": len(ids), "max_model_len": served.context, "tokens": ids, "token_strs": strings}
        return JSONResponse(found)

    @staticmethod
    def _ids(body: TokenizeRequest, served: Served) -> list[int]:
        if body.messages is not None:
            return encode_messages(served, body.messages, body.add_generation_prompt)
        begin = [served.tokenizer.bos] if body.add_special_tokens else []
        return begin + tokenizer_ids(served.tokenizer, body.prompt or "")

    async def detokenize(self, body: DetokenizeRequest) -> Response:
        tokenizer = self.serving(body, body.model).tokenizer
        if not all(0 <= token < tokenizer.size for token in body.tokens):
            raise Refusal(400, f"tokens must be from 0 to {tokenizer.size - 1}", param="tokens")
        return JSONResponse({"prompt": await asyncio.to_thread(tokenizer.decode, body.tokens, True)})

    # ── how it is

    async def health(self) -> Response:
        served = self.service.ready()
        return JSONResponse({"status": "ok", "model": served.name})

    async def counted(self) -> Response:
        return Response(self.metrics.text(), media_type=server_metrics.TYPE)

    # ── checks that routes share

    def serving(self, body: BaseModel, name: str | None) -> Served:
        """What is served, if it is what the request names."""
        warn_of_unknown(body, self.warned)
        return self.named(self.service.ready(), name)

    def speaking(self, body: BaseModel, name: str | None) -> Served:
        served = self.serving(body, name)
        if served.engine is None:
            raise Refusal(400, f"{served.name} is a reward model: it only scores, at /v1/score")
        return served

    @staticmethod
    def named(served: Served, name: str | None) -> Served:
        if name not in (None, served.name):
            message = f"there is no model {name!r} here; this server has {served.name!r}"
            raise Refusal(404, message, param="model", code="model_not_found")
        return served

    # ── refusals

    async def refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        self.metrics.refused(error.status)
        return JSONResponse(error.body(), error.status, error.headers)

    async def no_such_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        messages = {404: f"no such address: {request.url.path}", 405: f"{request.method} is not allowed here"}
        message = messages.get(error.status_code, str(error.detail))
        refusal = Refusal(error.status_code, message, headers=dict(error.headers or {}))
        return await self.refused(request, refusal)

    async def malformed(self, request: Request, error: Exception) -> Response:
        """400 for what is no JSON, 422 for JSON of the wrong shape."""
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return await self.refused(request, Refusal(400, f"the request is no JSON: {first['ctx']['error']}"))
        if not request.headers.get("content-type", "").startswith("application/json"):
            return await self.refused(request, Refusal(400, "send JSON with the header Content-Type: application/json"))
        path = named_path(first["loc"])
        same = [one for one in error.errors() if named_path(one["loc"])[:1] == path[:1]]
        wants = [one["msg"].removeprefix("Input should be ") for one in same]
        message = f"{'.'.join(path) or 'the request'}: {' or '.join(dict.fromkeys(wants))}"
        return await self.refused(request, Refusal(422, message, param=path[0] if path else None))

    async def broken(self, request: Request, error: Exception) -> Response:
        """Our own mistake. The traceback goes to the log, not to the client."""
        return await self.refused(request, Refusal(500, "a bug in pronk; the server's log says more"))


def named_path(places: Sequence[int | str]) -> list[str]:
    """Where in a body pydantic found something wrong, without the kinds it tried there."""
    return [str(place) for place in places if not re.fullmatch(r"body|str|int|list\[.*\]", str(place))]
