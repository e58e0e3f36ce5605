"""What every request passes before a route sees it: host, origin, key, size, and the time its sending takes."""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from pronk.engine.protocol import Limits
from pronk.engine.refusal import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN = frozenset({"/health"})  # no key needed: load balancers ask here


class Guard:
    """ASGI middleware. hosts: the names by which this server may be called, so that no web page can reach it under a
    name of its own (DNS rebinding); None = any, for public servers, which must have a key."""

    def __init__(self, app: App, limits: Limits, key: str | None, hosts: frozenset[str] | None) -> None:
        self.app, self.limits, self.hosts = app, limits, hosts
        self.key = key.encode() if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            self._check(scope)
            body = await self._body(scope, receive)
        except Refusal as refusal:
            return await _answer(refusal, send)
        await self.app(scope, _replay(body, receive), send)

    def _check(self, scope: Scope) -> None:
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size + len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > self.limits.headers:
            raise Refusal(431, f"the headers are longer than {self.limits.headers} bytes")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self.hosts is not None:
            if _hostname(f"//{headers.get('host', '')}") not in self.hosts:
                raise Refusal(403, "this server answers only under the name that it was started for (Host header)")
            if "origin" in headers and _hostname(headers["origin"]) not in self.hosts:
                raise Refusal(403, "web pages of other hosts may not use this server (Origin header)")
        if self.key is not None and scope["path"] not in OPEN:
            self._check_key(headers.get("authorization", ""))

    def _check_key(self, authorization: str) -> None:
        scheme, _, given = authorization.partition(" ")
        assert self.key is not None
        right = hmac.compare_digest(given.strip().encode("latin-1"), self.key)
        if scheme.lower() != "bearer" or not right:
            raise Refusal(
                401, "give this server's key: Authorization: Bearer KEY", headers={"WWW-Authenticate": "Bearer"}
            )

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        limit = self.limits.body
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if length.isdigit() and int(length[:20]) > limit:
            raise too_large(limit)
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self.limits.slow):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "the client went away")
                    parts.append(message.get("body", b""))
                    if sum(map(len, parts)) > limit:
                        raise too_large(limit)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal(408, f"the request did not arrive within {self.limits.slow:g} seconds") from None


def too_large(limit: int) -> Refusal:
    return Refusal(413, f"the request is larger than {limit} bytes", headers={"Connection": "close"})


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body, and then what the connection says."""
    waiting = [body]

    async def again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return again


async def _answer(refusal: Refusal, send: Send) -> None:
    body = json.dumps(refusal.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
