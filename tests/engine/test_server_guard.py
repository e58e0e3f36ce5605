"""Who may ask, and how much: the key, the host's name, the origin of web pages, sizes, and bad HTTP."""

import asyncio
import json
import socket

import openai
import pytest

from pronk.engine.protocol import Limits
from pronk.engine.server_guard import LOOPBACK, Guard

from .hosted import ASK, hosted

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
OPEN = ["/v1/models", "/tokenizer_info", "/metrics", "/openapi.json", "/nothing"]


@pytest.fixture(scope="module")
def host():
    with hosted(limits=Limits(slow=0.3), key="sécret", hosts=LOOPBACK) as found:
        yield found


def key(text="sécret"):
    return {"Authorization": b"Bearer " + text.encode()}


@pytest.mark.parametrize("path", OPEN)
def test_every_route_but_health_wants_the_key(host, path):
    assert host.get(path).status_code == 401
    assert host.get(path, headers=key("secret")).status_code == 401
    assert (
        host.get(path, headers={"Authorization": key()["Authorization"].replace(b"Bearer", b"Basic")}).status_code
        == 401
    )
    assert host.get(path, headers=key()).status_code in (200, 404)
    assert host.get("/health").status_code == 200


def test_a_missing_key_is_openais_error():
    with hosted(key="secret") as host:
        with pytest.raises(openai.AuthenticationError, match="Authorization: Bearer"):
            host.openai(key="wrong").models.list()
        assert host.openai(key="secret").models.list().data[0].id == "toy"
        assert host.post(TEXT, {"prompt": "a"}).headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("name", ["evil.com", "evil.com:8000", "127.0.0.1.evil.com", "", "[::1", "localhost.evil.com"])
def test_other_names_are_refused(host, name):
    """DNS rebinding: a page of evil.com, whose name now points here, sends its own name."""
    assert host.get("/v1/models", headers={**key(), "Host": name}).status_code == 403
    assert host.get("/health", headers={"Host": name}).status_code == 403


@pytest.mark.parametrize("name", ["localhost", "localhost:1", "127.0.0.1:99", "[::1]:80", "LOCALHOST"])
def test_names_of_this_machine_are_taken(host, name):
    assert host.get("/v1/models", headers={**key(), "Host": name}).status_code == 200


def test_pages_of_other_hosts_may_not_ask(host):
    for origin in ("https://evil.com", "null", "http://localhost.evil.com"):
        assert host.get("/v1/models", headers={**key(), "Origin": origin}).status_code == 403
    reply = host.get("/v1/models", headers={**key(), "Origin": "http://localhost:3000"})
    assert reply.status_code == 200
    assert "access-control-allow-origin" not in reply.headers


def test_a_body_that_a_form_could_send_is_refused(host):
    """A page may send a form's types anywhere without asking; JSON it may not."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        headers = {**key(), **({"Content-Type": kind} if kind else {})}
        reply = host.post(TEXT, None, content=b'{"prompt": "a"}', headers=headers)
        assert reply.status_code == 400
        assert "Content-Type: application/json" in reply.json()["error"]["message"]


def test_sizes(host):
    big = {"prompt": "a" * (1 << 20)}
    assert host.post(TEXT, big, headers=key()).status_code == 413
    parts = (b"x" * 65536 for _ in range(20))  # no length told before
    chunked = host.post(TEXT, None, content=parts, headers={**key(), "Content-Type": "application/json"})
    assert chunked.status_code == 413
    assert chunked.json()["error"]["code"] == "request_too_large"
    for size in (15000, 30000, 100000):
        found = host.get("/v1/models", headers={**key(), "X-Long": "x" * size}).status_code
        assert found in ((200,) if size == 15000 else (431, 400))
    assert host.get("/v1/models?" + "x" * 20000, headers=key()).status_code in (431, 400)


def test_a_body_that_does_not_come_is_given_up(host):
    with socket.create_connection(("127.0.0.1", host.port)) as line:
        head = f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n".encode()
        line.sendall(head + b"Authorization: " + key()["Authorization"] + b"\r\n\r\n{")
        line.settimeout(10)
        assert line.recv(4096).startswith(b"HTTP/1.1 408")


def test_many_messages_are_refused_before_they_are_encoded(host):
    body = {"messages": [{"role": "user", "content": ""}] * 20000}
    reply = host.post(CHAT, body, headers=key())
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert host.post(CHAT, {"messages": ASK, "max_tokens": 1}, headers=key()).status_code == 200


def test_what_is_not_http_passes():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(Guard(app, Limits(), "key", LOOPBACK)({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]


def test_the_key_is_compared_in_constant_time(monkeypatch):
    """By hmac.compare_digest, whatever is sent (CVE-2025-59425)."""
    seen = []
    monkeypatch.setattr("hmac.compare_digest", lambda given, wanted: seen.append((given, wanted)) or given == wanted)
    sent = []

    async def ask(headers):
        scope = {"type": "http", "path": "/v1/models", "headers": headers}

        async def receive():
            return {"type": "http.request", "body": b""}

        async def send(message):
            sent.append(message)

        async def app(scope, receive, send):
            sent.append({"status": 200})

        await Guard(app, Limits(), "key", None)(scope, receive, send)

    for headers in ([], [(b"authorization", b"Bearer kex")], [(b"authorization", b"key")]):
        asyncio.run(ask(headers))
        assert sent[-2]["status"] == 401
        assert json.loads(sent[-1]["body"])["error"]["code"] == "invalid_api_key"
    asyncio.run(ask([(b"authorization", b"Bearer key")]))
    assert sent[-1] == {"status": 200}
    assert seen == [(b"", b"key"), (b"kex", b"key"), (b"", b"key"), (b"key", b"key")]
