"""The shape of the world's grammar: a phrasing with free choices, and the wants and obstacles built of phrasings.

A phrasing is one sentence. [a|b] is a free choice, which may nest; {name}, {kind}, {he} … are slots that hold through
the whole story. "a" stands for "a" or "an", whichever the next word calls for.
"""

import itertools
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Want:
    """Something a hero can want: how it is said, how it comes true; `thing` is the slot that it turns on, if any."""

    wishes: tuple[str, ...]
    fulfilments: tuple[str, ...]
    thing: str = ""


@dataclass(frozen=True)
class Obstacle:
    """A trouble and its solutions; `unfit` are the kinds for whom it would be none (a duck at a river)."""

    troubles: tuple[str, ...]
    solutions: tuple[str, ...]
    unfit: frozenset[str] = frozenset()


_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_ARTICLE = re.compile(r"\b([Aa])n? (?=(\w))")


def choose(phrasing: str, rng: random.Random) -> str:
    """One sentence of the phrasing, its slots still open."""
    while match := _CHOICE.search(phrasing):
        phrasing = phrasing[: match.start()] + rng.choice(match[1].split("|")) + phrasing[match.end() :]
    return phrasing


def every(phrasing: str) -> Iterator[str]:
    """All sentences of the phrasing, their slots still open; some may come twice."""
    parts = _split(phrasing)
    for picks in itertools.product(*parts):
        yield "".join(picks)


def fill(sentence: str, slots: Mapping[str, str]) -> str:
    """The sentence with its slots filled and its articles fitted to what follows them."""
    return fit_articles(sentence.format_map(slots))


def fit_articles(text: str) -> str:
    """Write "an" before a vowel and "a" before anything else."""
    return _ARTICLE.sub(lambda match: match[1] + ("n " if match[2] in "aeiouAEIOU" else " "), text)


def _split(phrasing: str) -> list[list[str]]:
    """The phrasing as a row of parts, each with the texts it may be."""
    parts: list[list[str]] = []
    depth, start = 0, 0
    for place, letter in enumerate(phrasing):
        if letter == "[":
            if depth == 0:
                parts.append([phrasing[start:place]])
                start = place + 1
            depth += 1
        elif letter == "]":
            depth -= 1
            if depth == 0:
                parts.append([text for option in _options(phrasing[start:place]) for text in every(option)])
                start = place + 1
    assert depth == 0, f"unbalanced brackets in {phrasing!r}"
    return [*parts, [phrasing[start:]]]


def _options(inside: str) -> list[str]:
    """The options of one choice, split at the bars that are not inside a nested choice."""
    options, depth = [""], 0
    for letter in inside:
        depth += (letter == "[") - (letter == "]")
        if letter == "|" and depth == 0:
            options.append("")
        else:
            options[-1] += letter
    return options
