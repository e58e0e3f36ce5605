"""Lets only this page's own requests through: Host, Origin, key, size and headers; who someone is, app.py asks."""

import hmac
from collections.abc import Iterable, Mapping
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs

LONGEST = 256 * 1024  # bytes of a request's body
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # the key stands in a URL
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
KEY_COOKIE = "pronk_key"

App = Any  # an ASGI application


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def cookie(headers: Mapping[str, str], name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def cookie_line(name: str, value: str) -> str:
    """Not for scripts, not for other sites, for a year."""
    return f"{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000"


def csrf(token: str) -> str:
    """What a page must repeat beside its cookie: another site can make a browser send a cookie but not read this."""
    return sha256(f"csrf {token}".encode()).hexdigest()


def same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


class Guard:
    """Wraps the application.

    key: empty on loopback, where only Hosts that mean loopback are answered (a name that an attacker points at
    127.0.0.1 is not one). Otherwise the secret that the first URL must carry as ?key=…; a cookie keeps it.
    """

    def __init__(self, app: App, key: str = "") -> None:
        self.app, self.key = app, key

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name.decode("latin1"): value.decode("latin1") for name, value in scope["headers"]}
        refusal = self.refusal(scope, headers)
        if refusal:
            return await respond(send, *refusal)
        return await self.app(scope, limited(receive), dressed(send))

    def refusal(self, scope: Any, headers: Mapping[str, str]) -> tuple[int, str, list[tuple[str, str]]] | None:
        """Why this request is not served, if it is not."""
        host = headers.get("host", "")
        if not self.key and not is_loopback(bare(host)):
            return 421, "This page answers only on this machine's own addresses (localhost).", []
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "This request comes from another page.", []
        if scope["method"] not in ("GET", "HEAD") and origin is None:
            return 403, "This request does not say which page it comes from.", []
        if headers.get("sec-fetch-site", "same-origin") == "cross-site" and scope["method"] not in ("GET", "HEAD"):
            return 403, "This request comes from another site.", []
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > LONGEST:
            return 413, "That is too much at once.", []
        return self.keyless(scope, headers) if self.key else None

    def keyless(self, scope: Any, headers: Mapping[str, str]) -> tuple[int, str, list[tuple[str, str]]] | None:
        """The key in the URL becomes a cookie and leaves the URL; without either, nothing is served."""
        given = parse_qs(scope["query_string"].decode("latin1")).get("key", [""])[0]
        if given and same(given, self.key):
            return 303, "", [("location", scope["path"]), ("set-cookie", cookie_line(KEY_COOKIE, self.key))]
        if same(cookie(headers, KEY_COOKIE), self.key):
            return None
        return 401, "This page needs the key in its address: ask whoever runs it for the whole link.", []


def bare(host: str) -> str:
    """A Host header without its port: "[::1]:8100" is ::1."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def limited(receive: Any) -> Any:
    """receive, of which no more than LONGEST bytes come: a body without a length is cut off there."""
    seen = 0

    async def counted() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > LONGEST else message

    return counted


def dressed(send: Any) -> Any:
    """send, with our headers on every answer."""
    ours = encode(HEADERS.items())

    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            named = {name for name, _ in ours}
            message["headers"] = [pair for pair in message.get("headers", []) if pair[0].lower() not in named] + ours
        await send(message)

    return sending


async def respond(send: Any, status: int, text: str, headers: list[tuple[str, str]]) -> None:
    told = encode([*HEADERS.items(), ("content-type", "text/plain; charset=utf-8"), *headers])
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": text.encode()})


def encode(pairs: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin1"), value.encode("latin1")) for name, value in pairs]
