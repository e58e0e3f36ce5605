"""One person's sitting: what they are shown, what they answer, and what they take back; HTTP is app.py's."""

import json
import random
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, func, select

from pronk.data.records import Message
from pronk.feedback.pick import pick
from pronk.feedback.rule import Rule
from pronk.feedback.schema import answers, events, guidelines, items, readings, showings
from pronk.feedback.store import Store, append

SIDES = ("first", "second")


class Refused(Exception):
    """What the page asked for cannot be. status: the HTTP status that says so."""

    def __init__(self, text: str, status: int = 409) -> None:
        super().__init__(text)
        self.status = status


class Answer(NamedTuple):
    text: str
    model: str  # who made it


class Showing(NamedTuple):
    """What a person sees: a prompt and two answers, each at its side."""

    id: str
    prompt: list[dict[str, str]]
    left: str
    right: str


# ── bringing pairs and guidelines


def item_id(prompt: Sequence[Message], pair: Sequence[Answer]) -> str:
    """The same pair has the same id, and ids are in no order."""
    content = json.dumps([[asdict(message) for message in prompt], pair], ensure_ascii=False)
    return sha256(content.encode()).hexdigest()[:24]


def part_of(prompt: Sequence[Message], evaluation: float) -> str:
    """Prompts are dealt by their hash, so that none is in both parts and no score has a say."""
    content = json.dumps(["part", [asdict(message) for message in prompt]], ensure_ascii=False)
    return "evaluation" if int(sha256(content.encode()).hexdigest()[:13], 16) / 16**13 < evaluation else "train"


def add_item(
    connection: Connection, prompt: Sequence[Message], pair: Sequence[Answer], evaluation: float, asked: bool = True
) -> str:
    """Store a pair if it is new; returns its id."""
    id = item_id(prompt, pair)
    if connection.scalar(select(items.c.id).where(items.c.id == id)) is None:
        told = [asdict(message) for message in prompt]
        both = [answer._asdict() for answer in pair]
        body = {"id": id, "prompt": told, "answers": both, "part": part_of(prompt, evaluation), "asked": asked}
        append(connection, "item", body)
    return id


def publish(store: Store, text: str) -> int:
    """Make this text the guidelines, if it is not already; returns their version."""
    with store.writing() as connection:
        newest = current(connection)
        if newest and newest.text == text:
            return int(newest.version)
        version = (newest.version if newest else 0) + 1
        append(connection, "guidelines", {"version": version, "text": text})
    return int(version)


def current(connection: Connection) -> Row[Any] | None:
    """The newest guidelines."""
    return connection.execute(select(guidelines).order_by(guidelines.c.version.desc()).limit(1)).one_or_none()


def read_version(connection: Connection, person: str) -> int:
    return connection.scalar(select(readings.c.version).where(readings.c.person == person)) or 0


def mark_read(connection: Connection, person: str, version: int) -> None:
    newest = current(connection)
    if newest is None or newest.version != version:
        raise Refused("the guidelines have changed meanwhile; read them again")
    if read_version(connection, person) != version:
        append(connection, "read", {"version": version}, person)


# ── showing and answering: within the caller's transaction, so that an answer and the next pair cost one sync


def show(connection: Connection, person: str, rule: Rule) -> Showing | None:
    """What awaits this person's answer: what they were shown last, or the next pair; None = there is none now."""
    found = waiting(connection, person)
    if found:
        return found
    rng = random.Random(f"{rule.seed} {count(connection, select(func.count()).select_from(showings))}")
    picked = pick(connection, person, rule, rng, time.time())
    if picked is None:
        return None
    body = {"id": secrets.token_hex(8), "item": picked.item, "left": rng.choice(SIDES), "reason": picked.reason}
    append(connection, "shown", body, person)
    row = connection.execute(select(items).where(items.c.id == picked.item)).one()
    return at_sides(body["id"], body["left"], row)


def waiting(connection: Connection, person: str) -> Showing | None:
    """The newest of a person's open showings; items that somebody flagged since are passed over."""
    both = select(showings.c.id, showings.c.left, items.c.prompt, items.c.first, items.c.second)
    mine = both.join(items, items.c.id == showings.c.item).where(showings.c.person == person, showings.c.open)
    row = connection.execute(mine.where(items.c.flags == 0).order_by(showings.c.touched.desc()).limit(1)).one_or_none()
    return at_sides(row.id, row.left, row) if row else None


def at_sides(id: str, left: str, row: Any) -> Showing:
    sides = (row.first, row.second) if left == "first" else (row.second, row.first)
    return Showing(id, json.loads(row.prompt), *sides)


def answer(connection: Connection, person: str, kind: str, key: str, body: Mapping[str, Any]) -> int:
    """Store a vote, skip or flag of what was shown; durable when the transaction is.

    The same key again is the same answer: it is stored once and acknowledged again. Raises Refused for a showing that
    is not this person's or not open, and before they have read the guidelines.
    """
    done = known(connection, person, kind, key)
    if done:
        return done
    shown = connection.execute(select(showings).where(showings.c.id == body["showing"])).one_or_none()
    if shown is None or shown.person != person:
        raise Refused("this was not shown to you", 404)
    if not shown.open:
        raise Refused("this was answered already, perhaps in another window; load the page again")
    newest, read = current(connection), read_version(connection, person)
    if newest and newest.version != read:
        raise Refused("the guidelines have changed; read them first")
    return append(connection, kind, {**body, "guidelines": read}, person, f"{person} {key}")


def undo(connection: Connection, person: str, key: str) -> int:
    """Take back this person's last answer; what was shown comes back."""
    done = known(connection, person, "undo", key)
    if done:
        return done
    mine = select(answers.c.event).where(answers.c.person == person, answers.c.showing != "")
    last = connection.scalar(mine.order_by(answers.c.event.desc()).limit(1))
    if last is None:
        raise Refused("there is nothing to take back")
    return append(connection, "undo", {"event": last}, person, f"{person} {key}")


def known(connection: Connection, person: str, kind: str, key: str) -> int | None:
    """The event that this key made before."""
    row = connection.execute(select(events.c.id, events.c.kind).where(events.c.key == f"{person} {key}")).one_or_none()
    if row and row.kind != kind:
        raise Refused(f"this key made a {row.kind} before: send a new one")
    return int(row.id) if row else None


def progress(connection: Connection, person: str) -> dict[str, int]:
    """How far this person and all together are: answers given, pairs in the queue."""
    mine = select(func.count()).where(answers.c.person == person, answers.c.showing != "")
    votes = select(func.count()).where(answers.c.kind == "vote", answers.c.showing != "")
    pairs = select(func.count()).where(items.c.asked)
    return {"mine": count(connection, mine), "votes": count(connection, votes), "pairs": count(connection, pairs)}


def count(connection: Connection, query: Any) -> int:
    return int(connection.scalar(query) or 0)


def unscored(connection: Connection) -> Iterable[Row[Any]]:
    """Pairs that no reward model was asked about."""
    return connection.execute(select(items).where(items.c.asked, items.c.doubt.is_(None))).all()
