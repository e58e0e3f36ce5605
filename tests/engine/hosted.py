"""A toy model behind a real server on a free port, in a thread of its own; and raw HTTP, to see every byte."""

import json
import socket
import threading
import time
from contextlib import contextmanager
from functools import cache

import httpx
import openai
import uvicorn

from pronk.engine.engine import Engine
from pronk.engine.protocol import Limits
from pronk.engine.server import create_app
from pronk.engine.server_metrics import Metrics
from pronk.engine.service import Served, Service
from pronk.text.bpe import train

from .make import make

TEXTS = ["Once upon a time there was a cat who said héllo to the wörld, and the world said: “no”. 🙂"] * 3
ASK = [{"role": "user", "content": "Say something."}]


@cache
def tokenizer():
    return train(TEXTS, size=320)


def toy(slots=8, context=128, **keys):
    """What a server with a model of random weights speaks for; its answers are full of broken UTF-8."""
    made = tokenizer()
    model = make(vocab=made.size, context=context)
    engine = Engine(model, made.decode, slots)
    return Served("toy", made, context, engine, **{"stop": (made.eos,), "about": "fp_toy"} | keys)


class Host:
    """A running server."""

    def __init__(self, service, port):
        self.service, self.url = service, f"http://127.0.0.1:{port}"
        self.port = port

    def openai(self, key="none", **options):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, **{"max_retries": 0, "timeout": 60} | options)

    def get(self, path, **options):
        return httpx.get(self.url + path, timeout=60, **options)

    def post(self, path, body, **options):
        return httpx.post(self.url + path, json=body, timeout=60, **options)

    def events(self, path, body):
        """What follows `data: ` in a stream, line by line."""
        with httpx.stream("POST", self.url + path, json={**body, "stream": True}, timeout=60) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in response.iter_lines() if line]
        assert all(line.startswith("data: ") for line in lines)
        return [line.removeprefix("data: ") for line in lines]

    def chunks(self, path, body):
        *events, last = self.events(path, body)
        assert last == "[DONE]"
        return [json.loads(event) for event in events]

    def idle(self, seconds=20):
        """Wait until nothing runs or waits."""
        end = time.monotonic() + seconds
        while self.service.running or self.service.waiting or self.service._jobs:
            assert time.monotonic() < end, "slots are still taken"
            time.sleep(0.005)


@contextmanager
def hosted(served=None, limits=None, load=None, wait=True, **options):
    """A Host. served or load: what it speaks for."""
    service = Service(load or (lambda: served or toy()), metrics := Metrics(), (limits or Limits()).queue)
    app = create_app(service, metrics, limits or Limits(), **options)
    with socket.create_server(("127.0.0.1", 0)) as door:
        server = uvicorn.Server(uvicorn.Config(app, http="h11", log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
        thread.start()
        host = Host(service, door.getsockname()[1])
        try:
            until(lambda: server.started and (service.served or service.failure or not wait))
            yield host
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()


def until(true, seconds=30):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
