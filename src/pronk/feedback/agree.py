"""How far people agree: with themselves on repeated pairs, with one another, and with the left side; pure numbers."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from pronk.feedback.standing import wilson

CHOICES = ("first", "second", "tie", "bad")


class Ballot(NamedTuple):
    """One vote as it was cast, in the order of casting."""

    person: str
    item: str
    choice: str  # first, second, tie, bad
    left: str  # which answer stood at the left
    repeat: bool


class Share(NamedTuple):
    """A rate with its 95 % interval."""

    rate: float | None  # None: nothing to count
    low: float
    high: float
    votes: int


def share(hits: Iterable[bool]) -> Share:
    counted = [bool(hit) for hit in hits]
    rate = sum(counted) / len(counted) if counted else None
    return Share(rate, *wilson(rate or 0.0, len(counted)), len(counted))


def left_rate(ballots: Iterable[Ballot]) -> Share:
    """How often the left answer won where one did. Sides are random: far from a half, people vote by place."""
    return share(b.choice == b.left for b in ballots if b.choice in ("first", "second"))


def self_agreement(ballots: Iterable[Ballot]) -> Share:
    """How often a person who saw a pair again chose the same, sides aside."""
    before: dict[tuple[str, str], str] = {}
    same = []
    for ballot in ballots:
        place = ballot.person, ballot.item
        if ballot.repeat and place in before:
            same.append(before[place] == ballot.choice)
        before.setdefault(place, ballot.choice)
    return share(same)


def pairwise_agreement(ballots: Iterable[Ballot]) -> Share:
    """How often two people who judged the same pair chose the same. Pairs of people are not independent: the interval
    is too narrow where many judged one pair."""
    by_item = group(ballots)
    same = []
    for choices in by_item.values():
        votes = list(choices.values())
        same += [one == other for i, one in enumerate(votes) for other in votes[:i]]
    return share(same)


def alpha(ballots: Iterable[Ballot]) -> float | None:
    """Krippendorff's alpha of all people's first choices (nominal): 1 agree, 0 as by chance; None: it has no value.

    It needs two people who judged one pair, and two different choices in all.
    """
    by_item = {item: choices for item, choices in group(ballots).items() if len(choices) > 1}
    votes = [choice for choices in by_item.values() for choice in choices.values()]
    if len(set(votes)) < 2:
        return None
    import krippendorff
    import numpy as np

    people = sorted({person for choices in by_item.values() for person in choices})
    table = np.full((len(people), len(by_item)), np.nan)
    for column, choices in enumerate(by_item.values()):
        for person, choice in choices.items():
            table[people.index(person), column] = CHOICES.index(choice)
    return float(krippendorff.alpha(table, level_of_measurement="nominal", value_domain=list(range(len(CHOICES)))))


def group(ballots: Iterable[Ballot]) -> dict[str, dict[str, str]]:
    """Each item's choices by person, the first of each."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for ballot in ballots:
        found[ballot.item].setdefault(ballot.person, ballot.choice)
    return found
