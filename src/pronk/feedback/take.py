"""Takes comparisons from files: our own exports of votes, and every format that data/shapes.py reads."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, select

from pronk.data import shapes
from pronk.data.files import Paths, Skipped, rows
from pronk.data.records import Comparison, Message
from pronk.feedback.desk import Answer, add_item
from pronk.feedback.export import CARRIED
from pronk.feedback.schema import answers, events
from pronk.feedback.store import Store, append

KINDS = {"vote", "skip", "flag"}
CHOICES = {"vote": {"first", "second", "tie", "bad"}, "skip": {""}, "flag": {""}}
TYPES: dict[str, type | tuple[type, ...]] = {
    "strength": int,
    "guidelines": int,
    "repeat": bool,
    "seconds": (int, float),
    "at": (int, float),
}


def take(store: Store, paths: Paths, evaluation: float, skipped: Skipped) -> int:
    """Import files in one transaction; returns how many answers are new. The same file again adds nothing."""
    seen: Counter[str] = Counter()
    new = 0
    with store.writing() as connection:
        for place, row in rows(paths, skipped):
            content = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
            seen[content] += 1  # the same line twice in a file is two verdicts
            key = "import " + sha256(f"{seen[content]} {content}".encode("utf-8", "surrogatepass")).hexdigest()
            try:
                new += one(connection, row, key, evaluation)
            except shapes.Unusable as reason:
                skipped.add(place, str(reason))
    return new


def one(connection: Connection, row: Any, key: str, evaluation: float) -> bool:
    """Import one row; whether it is new. Raises Unusable."""
    prompt, pair, body, person, kind = vote(row) if is_vote(row) else verdict(row)
    if connection.scalar(select(events.c.id).where(events.c.key == key)) is not None:
        return False
    item = add_item(connection, prompt, pair, evaluation, asked=False)
    if "at" in body and given_here(connection, item, person, body["at"]):
        return False
    append(connection, "imported", {"item": item, "kind": kind, **body}, person, key)
    return True


Found = tuple[tuple[Message, ...], list[Answer], dict[str, Any], str, str]


def verdict(row: Any) -> Found:
    """A comparison of any known format: its better answer is the first."""
    found: Comparison = shapes.comparison(row)
    person = row.get("annotator") or "import"
    if not isinstance(person, str):
        raise shapes.Unusable("annotator must be text")
    pair = [Answer(found.chosen, ""), Answer(found.rejected, "")]
    choice = "first" if found.strength else "tie"
    left = {"chosen": "first", "rejected": "second", "": ""}[found.first]
    body = {"choice": choice, "strength": found.strength, "left": left, "repeat": False}
    return found.prompt, pair, body, person, "vote"


def is_vote(row: Any) -> bool:
    return isinstance(row, Mapping) and {"kind", "prompt", "answers", "choice"} <= row.keys()


def vote(row: Mapping[str, Any]) -> Found:
    """A row of our own export."""
    kind, person = row["kind"], row.get("annotator", "import")
    prompt = shapes.prompt({"prompt": row["prompt"]}).messages
    pair = row["answers"]
    good = isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, Mapping) for x in pair)
    if not good or not all(isinstance(x.get(name), str) for x in pair for name in ("text", "model")):
        raise shapes.Unusable("answers must be two objects with text and model")
    if kind not in KINDS or row["choice"] not in CHOICES[kind] or not isinstance(person, str):
        raise shapes.Unusable("kind, choice or annotator of this vote are unknown")
    body = {name: row[name] for name in CARRIED if row.get(name) is not None}
    for name, value in body.items():
        if not isinstance(value, TYPES.get(name, str)) or (isinstance(value, float) and not math.isfinite(value)):
            raise shapes.Unusable(f"{name} of this vote is no {getattr(TYPES.get(name, str), '__name__', 'number')}")
    decided = row["choice"] in ("first", "second")
    if body.get("left") not in ("", "first", "second") or decided != (1 <= body.get("strength", 0) <= 4):
        raise shapes.Unusable("left or strength of this vote are impossible")
    return prompt, [Answer(x["text"], x["model"]) for x in pair], {"repeat": False} | body, person, kind


def given_here(connection: Connection, item: str, person: str, at: float) -> bool:
    """Whether this very answer is in the database already, as after importing one's own export."""
    same = (answers.c.item == item) & (answers.c.person == person) & (answers.c.at == at)
    return connection.scalar(select(answers.c.event).where(same)) is not None
