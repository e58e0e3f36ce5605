"""A small database, and a client that talks as the page does."""

from dataclasses import replace

from starlette.testclient import TestClient

from pronk.data.records import Message
from pronk.feedback import desk
from pronk.feedback.app import Status, create_app
from pronk.feedback.desk import Answer
from pronk.feedback.rule import Rule
from pronk.feedback.store import Store

PLAIN = Rule(evaluation=0.0, repeat=0.0)
HOST = "http://localhost:8100"


def pair(number, models=("old", "new")):
    prompt = (Message("user", f"Question {number}?"),)
    return prompt, [Answer(f"{name} answer {number}", name) for name in models]


def store(folder, pairs=5, rule=PLAIN, models=("old", "new")):
    opened = Store(folder / "feedback.db")
    with opened.writing() as connection:
        for number in range(pairs):
            desk.add_item(connection, *pair(number, models), rule.evaluation)
    return opened


def draw(facts, name, dark):
    return b"picture"


def client(opened, rule=PLAIN, status=None, key=""):
    app = create_app(opened, rule, draw, status or Status(), key)
    return TestClient(app, base_url=HOST, headers={"origin": HOST})


class Visitor:
    """A person at the page."""

    def __init__(self, opened, name="ada", rule=PLAIN, status=None):
        self.client = client(opened, rule, status)
        self.client.headers["x-csrf"] = self.client.get("/api/me").json()["csrf"]
        self.client.headers["x-csrf"] = self.post("/api/join", name=name).json()["csrf"]
        self.keys = 0

    def post(self, path, **body):
        return self.client.post(path, json=body)

    def next(self):
        return self.post("/api/next").json()["showing"]

    def answer(self, kind="vote", showing=None, key=None, **body):
        self.keys += 1
        if kind == "vote" and "choice" not in body:
            body |= {"choice": "left", "strength": 2}
        if kind != "undo":
            body["showing"] = showing or self.next()["id"]
        return self.post(f"/api/{kind}", key=key or f"key-{self.keys:08d}", **body)


def rows(opened, table):
    from sqlalchemy import select

    with opened.reading() as connection:
        return connection.execute(select(table)).all()


__all__ = ["HOST", "PLAIN", "Status", "Visitor", "client", "draw", "pair", "replace", "rows", "store"]
