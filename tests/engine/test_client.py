"""The client against our own server, and against servers that misbehave in every way."""

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pronk.engine.client import Answer, Client, ServerError
from pronk.engine.protocol import Limits
from pronk.errors import UserError

from .hosted import ASK, hosted, toy

TINY = {"max_tokens": 6, "seed": 1}


@pytest.fixture(scope="module")
def host():
    with hosted() as found:
        yield found


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_models_and_health(host, end):
    client = Client(host.url + end)
    assert client.models() == ["toy"] and client.model == "toy" and client.health()


def test_chats(host):
    client = Client(host.url)
    one, other = client.chat(ASK, n=2, **TINY)
    assert one == client.chat(ASK, **TINY)[0] != other
    assert one.finish in ("stop", "length") and one.tokens == one.logps == one.ids == ()
    told = client.chat(ASK, logprobs=True, return_token_ids=True, **TINY)[0]
    assert len(told.tokens) == len(told.logps) == len(told.ids) == 6
    assert "".join(client.chat_stream(ASK, **TINY)) == one.text


def test_texts_and_ids(host):
    client, tokenizer = Client(host.url), toy().tokenizer
    both = client.complete(["a cat", "the world"], n=2, **TINY)
    assert both[2:] == client.complete("the world", n=2, **TINY)
    ids = client.complete([[tokenizer.bos, *tokenizer.encode("a cat")]], return_token_ids=True, logprobs=0, **TINY)[0]
    assert (ids.text, len(ids.ids)) == (both[0].text, len(ids.logps))
    assert "".join(client.complete_stream("a cat", **TINY)) == both[0].text


def test_leaving_a_stream_ends_it_on_the_server(host):
    for _ in Client(host.url).chat_stream(ASK, temperature=0):
        break
    host.idle()


def test_scores():
    served = toy(score=lambda rows: [float(len(row)) for row in rows])
    served.engine = None
    with hosted(served) as host:
        client = Client(host.url)
        short, long = client.score([[*ASK, {"role": "assistant", "content": text}] for text in ("a", "a cat said no")])
        assert short < long
        with pytest.raises(ServerError, match="reward model"):
            client.chat(ASK)
        reply = host.post("/v1/score", {"prompt": ASK[0]["content"], "answers": ["a", "a cat said no"]}).json()
        assert [row["score"] for row in reply["data"]] == [short, long]
        assert reply["usage"]["prompt_tokens"] == short + long
        for body in (
            {},
            {"conversations": []},
            {"conversations": [[]]},
            {"prompt": "a"},
            {"prompt": "a", "answers": []},
        ):
            assert host.post("/v1/score", body).status_code == 400, body
        body = {"conversations": [ASK], "prompt": "a", "answers": ["b"]}
        assert host.post("/v1/score", body).status_code == 400
        long = [[*ASK, {"role": "assistant", "content": "cat " * 200}]]
        assert host.post("/v1/score", {"conversations": long}).json()["error"]["code"] == "context_length_exceeded"
        served.score = lambda rows: [float("nan")] * len(rows)
        with pytest.raises(ServerError, match="not finite"):
            client.score([ASK])


def test_refusals_are_user_errors_with_the_servers_words(host):
    client = Client(host.url)
    with pytest.raises(UserError, match="maximum context length is 128") as caught:
        client.chat([{"role": "user", "content": "cat " * 200}])
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
    with pytest.raises(ServerError, match="no model 'gpt'"):
        Client(host.url, model="gpt").complete("a")
    with pytest.raises(ServerError, match="temperature"):
        list(client.complete_stream("a", temperature=-1))


def test_the_key():
    with hosted(key="sécret") as host:
        assert Client(host.url, key="sécret").models() == ["toy"]
        with pytest.raises(ServerError, match="401: give this server's key"):
            Client(host.url).models()


def test_a_failing_stream_is_an_error():
    with hosted(limits=Limits(seconds=1e-9)) as host, pytest.raises(ServerError, match="took longer"):
        list(Client(host.url).complete_stream("a", **TINY))


# ── other servers


@contextmanager
def answering(*replies):
    """A server that gives these replies (status, headers, body), and then the last one again and again."""
    left, seen = list(replies), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append((self.path, dict(self.headers), body))
            status, headers, body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


GOOD = (
    200,
    {},
    json.dumps({"choices": [{"index": 0, "message": {"content": None}, "finish_reason": "stop"}]}).encode(),
)


def test_a_full_server_is_asked_again_when_it_says(monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    with answering((429, {"Retry-After": "3"}, b""), (503, {}, b""), (429, {"Retry-After": "999"}, b"{}"), GOOD) as (
        url,
        _,
    ):
        assert Client(url, model="m").chat(ASK) == [Answer("", "stop")]
    assert slept == [3.0, 1.0, 30.0]
    with answering((429, {}, b'{"error": {"message": "full", "code": "x"}}')) as (url, seen):
        with pytest.raises(ServerError, match="429: full"):
            Client(url, model="m", retries=2).chat(ASK)
        assert len(seen) == 3
    with answering((500, {}, b"no"), GOOD) as (url, seen):
        with pytest.raises(ServerError, match="500"):
            Client(url, model="m").chat(ASK)
        assert len(seen) == 1


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((200, {}, b"<html>hello</html>"), "not an OpenAI-compatible server"),
        ((200, {}, b"[1]"), "not an OpenAI-compatible server"),
        ((200, {}, b"{}"), "not in OpenAI's shape"),
        ((200, {}, b'{"choices": [{"index": 0}]}'), "not in OpenAI's shape"),
        ((404, {}, b"\xff\xfe"), "404"),
        ((400, {}, b'{"error": "plain words"}'), "plain words"),
        ((302, {"Location": "http://example.com/"}, b""), "302"),
        ((200, {"Content-Length": "99"}, b"{}"), "IncompleteRead"),
    ],
)
def test_servers_that_speak_otherwise(reply, words):
    with answering(reply) as (url, seen):
        with pytest.raises(ServerError, match=words):
            Client(url, model="m", key="secret").chat(ASK)
        assert len(seen) == 1  # no redirect is followed: it would carry the key away


def test_streams_that_break_off():
    chunk = b'data: {"choices": [{"index": 0, "text": "a"}]}\n\n'
    for body, words in (
        (chunk, "ended before"),
        (chunk + b'data: {"error": {"message": "lost"}}\n\n', "lost"),
        (chunk + b"data: {\n\n", "not an OpenAI"),
    ):
        with answering((200, {}, b": a comment\n\n" + body)) as (url, _):
            stream = Client(url, model="m").complete_stream("a")
            assert next(stream) == "a"
            with pytest.raises(ServerError, match=words):
                next(stream)


def test_nobody_there():
    with pytest.raises(ServerError, match="pronk serve"):
        Client("http://127.0.0.1:9").models()
    assert not Client("http://127.0.0.1:9").health()
    for url in ("localhost:8000", "ftp://a", "", "http://"):
        with pytest.raises(UserError, match="address"):
            Client(url)


def test_loopback_is_asked_directly(monkeypatch, host):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert Client(host.url).health()


def test_it_needs_neither_torch_nor_packages():
    code = (
        "import sys; sys.modules |= dict.fromkeys(['torch', 'httpx', 'fastapi', 'pydantic', 'tokenizers', 'numpy']); "
    )
    said = subprocess.run([sys.executable, "-c", code + "import pronk.engine.client"], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
