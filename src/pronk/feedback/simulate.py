"""Simulated people at the page: they ask and answer over HTTP, as a browser does."""

import http.client
import json
import secrets
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from pronk.world.annotators import Annotator

SIDES = {"a": "left", "b": "right"}


class Refused(Exception):
    """The server said no."""


class Guest:
    """One session. url: the page's address; with ?key=… where it asks for one."""

    def __init__(self, url: str, name: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        self.cookies: dict[str, str] = {}
        self.csrf = ""
        self.told: dict[str, Any] | None = None  # what the last answer's reply said of the next pair
        if parts.query:
            self.ask("GET", f"/?{parts.query}")
        self.csrf = self.ask("GET", "/api/me")["csrf"]
        self.csrf = self.post("/api/join", name=name)["csrf"]
        version = self.ask("GET", "/api/me")["guidelines"]
        if version:
            self.post("/api/read", version=version)

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        return self.ask("POST", path, body)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request; Refused for an answer that is no success."""
        line = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = {"Origin": self.origin, "X-CSRF": self.csrf, "Content-Type": "application/json", "Cookie": line}
        self.connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = self.connection.getresponse()
        text = response.read()
        for name, value in response.getheaders():
            if name.lower() == "set-cookie":
                cookie, _, content = value.partition(";")[0].partition("=")
                self.cookies[cookie] = content
        if response.status >= 400:
            raise Refused(f"{method} {path}: {response.status} {text[:200].decode(errors='replace')}")
        return json.loads(text) if text.startswith(b"{") else {}

    def next(self) -> dict[str, Any] | None:
        """What is shown; waits while pairs are being made. None: it is over."""
        told, self.told = self.told or self.post("/api/next"), None
        while told["making"] and not told["showing"] and not told["done"]:
            time.sleep(0.1)
            told = self.post("/api/next")
        shown: dict[str, Any] | None = told["showing"]
        return shown

    def vote(self, shown: dict[str, Any], person: Annotator) -> None:
        """Say what this person thinks of it."""
        verdict = person.judge(shown["prompt"][-1]["content"], shown["left"], shown["right"])
        choice = SIDES.get(verdict.choice, verdict.choice)
        self.answer(secrets.token_hex(16), showing=shown["id"], choice=choice, strength=verdict.strength)

    def answer(self, key: str, **body: Any) -> int:
        """Send a vote; returns its event. What comes next is in the reply already."""
        reply = self.post("/api/vote", key=key, **body)
        self.told = reply["next"]
        return int(reply["event"])


def vote_in_turn(url: str, people: Sequence[Annotator]) -> int:
    """The people vote one after another until the goal is reached or nothing is left; returns the number of votes."""
    guests = [(Guest(url, f"simulated {n}"), person) for n, person in enumerate(people, 1)]
    votes = 0
    while guests:
        for guest, person in list(guests):
            shown = guest.next()
            if shown is None:
                guests.remove((guest, person))
            else:
                guest.vote(shown, person)
                votes += 1
                if guest.told and guest.told["done"]:  # the others' open pairs stay open
                    return votes
    return votes
