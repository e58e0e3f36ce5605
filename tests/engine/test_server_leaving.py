"""Clients that go away, crowds, slow clients, and models that fail: no slot stays taken, and who waits is told."""

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import openai
import pytest
import torch

from pronk.engine.protocol import Limits
from pronk.engine.refusal import Refusal
from pronk.engine.server_answer import Events

from .hosted import ASK, hosted, toy, until

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def gone(host, body, after):
    """A client that closes its connection once it has read `after` lines of a stream; 0 = before any answer."""
    payload = httpx.Request("POST", host.url + TEXT, json=body)
    with socket.create_connection(("127.0.0.1", host.port)) as line:
        head = "".join(f"{name}: {value}\r\n" for name, value in payload.headers.items())
        line.sendall(f"POST {TEXT} HTTP/1.1\r\n{head}\r\n".encode() + payload.content)
        received = b""
        while received.count(b"\n") < after:
            received += line.recv(4096)


def test_two_hundred_clients_gone_leave_no_slot_behind():
    with hosted(toy(slots=6), Limits(queue=1000)) as host:
        body = {"prompt": "a", "max_tokens": 110, "temperature": 1.5, "stop": ["zzzz"]}

        def leave(number):
            gone(host, {**body, "stream": number % 4 != 3, "n": 1 + number % 3}, after=number % 4 % 3 * 6)

        threads = [threading.Thread(target=leave, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        host.idle()
        assert host.service.running == 0
        assert host.post(TEXT, {"prompt": "a", "max_tokens": 4, "seed": 1}).status_code == 200
        text = host.get("/metrics").text
        assert 'pronk_requests_total{finish_reason="cancelled"}' in text


def slowly(served, pause):
    """An engine that waits before every step: so many seconds, or what a function does."""
    plain = served.engine.scheduler

    @contextmanager
    def scheduler(stops):
        with plain(stops) as made:
            step = made.step

            def slow():
                pause() if callable(pause) else time.sleep(pause)
                return step()

            made.step = slow
            yield made

    served.engine.scheduler = scheduler
    return served


def test_a_client_gone_before_its_answer_frees_its_slot():
    with hosted(slowly(toy(slots=1), 0.02)) as host:
        begin = time.monotonic()
        gone(host, {"prompt": "a", "max_tokens": 120, "temperature": 0, "stop": ["zzzz"]}, after=0)
        gone(host, {"prompt": "a", "max_tokens": 120, "temperature": 0, "stream": True}, after=0)
        until(lambda: not host.service._jobs, 2)
        assert time.monotonic() - begin < 2  # the answers would have taken 5 seconds


def test_a_full_queue_is_429_and_says_when_to_come_again():
    stepping, gate = threading.Event(), threading.Event()

    def pause():
        stepping.set()
        gate.wait()

    def ask():
        return pool.submit(host.post, TEXT, {"prompt": "a", "max_tokens": 2})

    with hosted(slowly(toy(slots=1), pause), Limits(queue=2)) as host, ThreadPoolExecutor() as pool:
        first = [ask()]
        assert stepping.wait(30)  # until it is taken out of the queue, it fills it
        first += [ask(), ask()]
        until(lambda: host.service.waiting >= 3)
        reply = host.post(TEXT, {"prompt": "a", "max_tokens": 1})
        assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
        assert reply.json()["error"]["code"] == "queue_full"
        with pytest.raises(openai.RateLimitError):
            host.openai().completions.create(model="toy", prompt="a")
        patient = pool.submit(host.openai(max_retries=5).completions.create, model="toy", prompt="a", max_tokens=1)
        until(lambda: 'status="429"} 3' in host.get("/metrics").text)
        gate.set()
        assert patient.result().usage.completion_tokens == 1
        assert [reply.result().status_code for reply in first] == [200] * 3


def test_until_the_model_is_loaded_all_is_503():
    loaded = threading.Event()

    def load():
        loaded.wait(20)
        return toy()

    with hosted(load=load, wait=False) as host:
        for reply in (host.get("/health"), host.post(TEXT, {"prompt": "a"}), host.get("/v1/models")):
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
            assert "still being loaded" in reply.json()["error"]["message"]
        loaded.set()
        until(lambda: host.get("/health").status_code == 200)


def test_a_model_that_cannot_be_loaded_is_told():
    def load():
        raise ValueError("no weights")

    told = []
    with hosted(load=load, settled=lambda: told.append(1)) as host:
        assert host.get("/health").status_code == 503
        assert str(host.service.failure) == "no weights" and told == [1]


def test_a_request_has_its_time():
    with hosted(slowly(toy(), 0.02), Limits(seconds=0.3)) as host:
        reply = host.post(TEXT, {"prompt": "a", "max_tokens": 120, "temperature": 0})
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "timeout")
        assert reply.headers["x-should-retry"] == "false"
        *_, last = host.events(TEXT, {"prompt": "a", "max_tokens": 120, "temperature": 0})
        assert '"code": "timeout"' in last
        host.idle(2)


def test_a_model_that_fails_is_500_and_the_next_request_is_well():
    ails = threading.Event()

    def fail():
        if ails.is_set():
            raise RuntimeError("out of memory")

    with hosted(slowly(toy(), fail)) as host:
        ails.set()
        assert host.post(TEXT, {"prompt": "a", "max_tokens": 3}).status_code == 500
        with pytest.raises(openai.APIError, match="model failed"):
            list(host.openai().completions.create(model="toy", prompt="a", max_tokens=3, stream=True))
        ails.clear()
        assert host.post(TEXT, {"prompt": "a", "max_tokens": 3}).status_code == 200
        host.idle(2)


def test_weights_that_are_not_finite_are_500():
    served = toy()
    with torch.no_grad():
        served.engine.model.embed.weight.fill_(float("nan"))
    with hosted(served) as host:
        for change in ({"max_tokens": 3}, {"max_tokens": 0, "echo": True, "logprobs": 1}):
            reply = host.post(TEXT, {"prompt": "a cat", **change})
            assert reply.status_code == 500
            assert "its weights hold NaN" in reply.json()["error"]["message"]


def test_a_client_that_takes_nothing_is_given_up():
    left, sent = [], []

    async def source():
        while True:
            yield "data: x\n\n"

    async def forever(*message):
        sent.extend(message)
        if len(sent) != 1:  # the head is taken
            await asyncio.sleep(60)

    stream = Events(source(), lambda: left.append(1), slow=0.05)
    asyncio.run(asyncio.wait_for(stream({"type": "http"}, lambda: asyncio.sleep(60), forever), 10))
    assert (left, len(sent)) == ([1], 2)


def test_a_stopping_server_tells_who_waits():
    with hosted(slowly(toy(slots=1), 0.01)) as host:
        heard = []
        thread = threading.Thread(
            target=lambda: heard.append(host.post(CHAT, {"messages": ASK, "max_tokens": 100, "temperature": 0}))
        )
        thread.start()
        until(lambda: host.service.running)
        host.service.close()
        thread.join(10)
        assert heard[0].status_code == 503
        with pytest.raises(Refusal, match="stopping"):
            host.service.ready()
