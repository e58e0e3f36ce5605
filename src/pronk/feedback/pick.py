"""Chooses which pair a person sees next, and says why."""

import random
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, exists, func, select

from pronk.feedback.rule import Rule
from pronk.feedback.schema import answers, items, showings

RESERVED = 900.0  # seconds for which a pair that is shown to someone is nobody else's


class Picked(NamedTuple):
    item: str
    reason: str  # uniform, doubt, repeat


def pick(connection: Connection, person: str, rule: Rule, rng: random.Random, now: float) -> Picked | None:
    """The next pair for a person; None when nothing is left for them.

    Pairs of the evaluation part go to everyone, so that people can be compared; the others to one person each.
    """
    repeats, evaluates = rng.random() < rule.repeat, rng.random() < rule.evaluation
    if repeats:
        found = repetition(connection, person, rule, rng)
        if found:
            return Picked(found, "repeat")
    order = ("evaluation", "train") if evaluates else ("train", "evaluation")
    for part in order:
        found = new(connection, person, part, rule, now)
        if found:
            return Picked(found, "doubt" if part == "train" and rule.choose == "doubt" else "uniform")
    return None


def new(connection: Connection, person: str, part: str, rule: Rule, now: float) -> str | None:
    """The next pair of this part that the person has not answered."""
    wanted = select(items.c.id).where(items.c.asked, items.c.part == part, items.c.flags == 0)
    wanted = wanted.where(~answered(answers.c.person == person, answers.c.showing != ""))
    if part == "train":
        reserved = and_(showings.c.item == items.c.id, showings.c.person != person, showings.c.open)
        held = exists().where(reserved, showings.c.at > now - RESERVED)
        wanted = wanted.where(~answered(answers.c.kind == "vote", answers.c.showing != ""), ~held)
        if rule.choose == "doubt":  # pairs without a score come last: to SQLite, NULL is the least
            wanted = wanted.order_by(items.c.doubt.desc())
    return connection.scalar(wanted.order_by(items.c.lot).limit(1))


def answered(*conditions: ColumnElement[bool]) -> Any:
    return exists().where(answers.c.item == items.c.id, *conditions)


def repetition(connection: Connection, person: str, rule: Rule, rng: random.Random) -> str | None:
    """A pair that the person voted on once, some answers ago."""
    mine = select(answers.c.item, func.count().label("times")).join(items, items.c.id == answers.c.item)
    mine = mine.where(answers.c.person == person, answers.c.kind == "vote", answers.c.showing != "", items.c.flags == 0)
    grouped = mine.group_by(answers.c.item).order_by(func.min(answers.c.event))
    once = [row.item for row in connection.execute(grouped).all() if row.times == 1]
    recent = select(answers.c.item).where(answers.c.person == person).order_by(answers.c.event.desc()).limit(rule.gap)
    late = set(connection.scalars(recent).all())
    old = [item for item in once if item not in late]
    return rng.choice(old) if old else None
