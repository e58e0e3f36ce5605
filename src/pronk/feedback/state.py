"""Folds events into the current state, one function a kind; the same events always give the same state."""

import json
import statistics
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from pronk.feedback.schema import DERIVED, answers, events, guidelines, items, readings, showings, state

VERSION = 2  # of these functions; another one in a database makes it fold anew


class Event(NamedTuple):
    id: int
    at: float
    person: str
    kind: str
    body: Mapping[str, Any]


def fold(connection: Connection, event: Event) -> None:
    """What one event changes."""
    FOLD[event.kind](connection, event)
    mark(connection, event.id)


def mark(connection: Connection, last: int) -> None:
    """Note how far the events are folded, and by which version of these functions."""
    note = "INSERT INTO state VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
    connection.exec_driver_sql(note, [("folded", last), ("version", VERSION)])


def stale(connection: Connection) -> bool:
    """Whether the state is not what these functions make of the events."""
    known = dict(connection.execute(select(state.c.name, state.c.value)).tuples().all())
    newest = connection.scalar(select(func.max(events.c.id))) or 0
    return (known.get("folded", 0), known.get("version", VERSION)) != (newest, VERSION)


def rebuild(connection: Connection) -> int:
    """Forget the state and fold all events again; returns their number."""
    for table in (*DERIVED, state):
        connection.execute(delete(table))
    rows = connection.execute(select(events).order_by(events.c.id)).all()
    for row in rows:
        fold(connection, Event(row.id, row.at, row.person, row.kind, json.loads(row.body)))
    return len(rows)


def snapshot(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that follows from the events, to compare."""
    return {
        table.name: sorted((tuple(row) for row in connection.execute(select(table)).all()), key=repr)
        for table in (*DERIVED, state)
    }


# ── one function a kind of event


def _item(connection: Connection, event: Event) -> None:
    body = event.body
    (first, second) = body["answers"]
    connection.execute(
        insert(items).values(
            id=body["id"],
            prompt=json.dumps(body["prompt"], ensure_ascii=False),
            first=first["text"],
            second=second["text"],
            first_model=first["model"],
            second_model=second["model"],
            part=body["part"],
            asked=body["asked"],
            lot=lot(body["prompt"], first["text"], second["text"]),
            doubt=None,
            flags=0,
        )
    )


def lot(prompt: list[dict[str, str]], first: str, second: str) -> float:
    """A number in [0, 1) made of what people read: in no order, and the same wherever the models' folders lie."""
    content = json.dumps([prompt, first, second], ensure_ascii=False)
    return int(sha256(content.encode()).hexdigest()[:13], 16) / 16**13


def _scored(connection: Connection, event: Event) -> None:
    doubt = doubtful(event.body["margins"])
    connection.execute(update(items).where(items.c.id == event.body["item"]).values(doubt=doubt))


def doubtful(margins: list[float]) -> float:
    """How much is learned from asking: members of an ensemble differ; a single one is near zero.

    margins: score of the first answer minus score of the second, one for each reward model. Several give their
    standard deviation, one gives minus its size: comparable among items scored by the same models.
    """
    return statistics.pstdev(margins) if len(margins) > 1 else -abs(margins[0])


def _shown(connection: Connection, event: Event) -> None:
    body = {name: event.body[name] for name in ("id", "item", "left", "reason")}
    connection.execute(insert(showings).values(**body, person=event.person, open=True, touched=event.id, at=event.at))


def _answer(connection: Connection, event: Event) -> None:
    """A vote, skip or flag of what was shown."""
    body = event.body
    shown = connection.execute(select(showings).where(showings.c.id == body["showing"])).one()
    _store(connection, event, shown.item, shown.left, shown.reason == "repeat", choice(body, shown.left))
    connection.execute(update(showings).where(showings.c.id == shown.id).values(open=False))
    if event.kind == "flag":
        connection.execute(update(items).where(items.c.id == shown.item).values(flags=items.c.flags + 1))


def choice(body: Mapping[str, Any], left: str) -> str:
    """The answer that was meant, whichever side it stood on."""
    other = "second" if left == "first" else "first"
    return {"left": left, "right": other}.get(body.get("choice", ""), body.get("choice", ""))


def _imported(connection: Connection, event: Event) -> None:
    """A verdict from elsewhere: it names its item, sides and choice itself."""
    body = event.body
    _store(connection, event, body["item"], body["left"], body["repeat"], body["choice"])
    if body["kind"] == "flag":
        connection.execute(update(items).where(items.c.id == body["item"]).values(flags=items.c.flags + 1))


def _store(connection: Connection, event: Event, item: str, left: str, repeat: bool, chosen: str) -> None:
    body = event.body
    connection.execute(
        insert(answers).values(
            event=event.id,
            kind=body["kind"] if event.kind == "imported" else event.kind,
            item=item,
            person=event.person,
            showing=body.get("showing", ""),
            left=left,
            repeat=repeat,
            choice=chosen,
            strength=body.get("strength", 0),
            reason=body.get("reason", ""),
            note=body.get("note", ""),
            edit=body.get("edit", ""),
            guidelines=body.get("guidelines", 0),
            seconds=body.get("seconds", 0.0),
            at=body.get("at", event.at),
        )
    )


def _undo(connection: Connection, event: Event) -> None:
    """Take an answer back: what was shown is open again, its sides as they were."""
    taken = connection.execute(select(answers).where(answers.c.event == event.body["event"])).one()
    connection.execute(delete(answers).where(answers.c.event == taken.event))
    reopened = update(showings).where(showings.c.id == taken.showing)
    connection.execute(reopened.values(open=True, touched=event.id, at=event.at))
    if taken.kind == "flag":
        connection.execute(update(items).where(items.c.id == taken.item).values(flags=items.c.flags - 1))


def _guidelines(connection: Connection, event: Event) -> None:
    connection.execute(insert(guidelines).values(version=event.body["version"], text=event.body["text"]))


def _read(connection: Connection, event: Event) -> None:
    row = upsert(readings).values(person=event.person, version=event.body["version"])
    again = row.on_conflict_do_update(index_elements=["person"], set_={"version": event.body["version"]})
    connection.execute(again)


def _nothing(connection: Connection, event: Event) -> None:
    """Kept for the record alone."""


FOLD: dict[str, Callable[[Connection, Event], None]] = {
    "item": _item,
    "scored": _scored,
    "shown": _shown,
    "vote": _answer,
    "skip": _answer,
    "flag": _answer,
    "imported": _imported,
    "undo": _undo,
    "guidelines": _guidelines,
    "read": _read,
    "joined": _nothing,
    "forgot": _nothing,
}
