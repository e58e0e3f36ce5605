"""Six ways to spoil a story, for testing whoever claims to tell a good one from a bad one."""

import random
import re
from collections.abc import Callable
from typing import Final

from pronk.world.check import sentences
from pronk.world.grammar import fit_articles
from pronk.world.tell import Story
from pronk.world.words import HIS_NAMES, KINDS, NAMES

_PRONOUN: Final = re.compile(r"\b([Hh]e|[Ss]he|him|[Hh]is|[Hh]er|himself|herself)\b")
# After these words, or at a stop, "her" is a "him"; before a noun it is a "his".
_HER_AS_HIM: Final = re.compile(r"her(?=[.,!?\"]| (?:and|how|up|to|at|every|the|a|that|with|until|take|play)\b)")
_OTHER: Final = {"he": "she", "she": "he", "him": "her", "his": "her", "himself": "herself", "herself": "himself"}


def swap_names(story: Story, rng: random.Random) -> str:
    """Exchange the hero's and the helper's names in a run of sentences, but not in all that have a name."""
    parts = sentences(story.text)
    named = [place for place, part in enumerate(parts) if _has(part, story.name) or _has(part, story.helper)]
    start = rng.randrange(len(named))
    stop = rng.randrange(start + 1, len(named) + (start > 0))
    run = named[start:stop]
    exchange = {story.name: story.helper, story.helper: story.name}
    return " ".join(_replaced(part, exchange) if place in run else part for place, part in enumerate(parts))


def truncate(story: Story, rng: random.Random) -> str:
    """Break off: after a whole sentence or in the middle of one."""
    words = story.text.split(" ")
    if rng.random() < 0.5:
        parts = sentences(story.text)
        return " ".join(parts[: rng.randrange(1, len(parts))])
    return " ".join(words[: rng.randrange(len(words) // 4, len(words))])


def shuffle(story: Story, rng: random.Random) -> str:
    """Tell the sentences in another order."""
    parts = sentences(story.text)
    mixed = list(parts)
    while mixed == parts:
        rng.shuffle(mixed)
    return " ".join(mixed)


def repeat(story: Story, rng: random.Random) -> str:
    """Say one sentence again, at once or later."""
    parts = sentences(story.text)
    place = rng.randrange(len(parts))
    later = rng.randrange(place + 1, len(parts) + 1)
    return " ".join([*parts[:later], parts[place], *parts[later:]])


def change_pronoun(story: Story, rng: random.Random) -> str:
    """Make one he a she or the other way round; in a story without any, put the wrong one for the hero's name."""
    places = list(_PRONOUN.finditer(story.text))
    if not places:
        wrong = "She" if story.name in HIS_NAMES else "He"
        parts = sentences(story.text)
        place = rng.choice([place for place, part in enumerate(parts) if place and part.startswith(story.name)] or [0])
        if place:
            return " ".join([*parts[:place], wrong + parts[place][len(story.name) :], *parts[place + 1 :]])
        later = story.text.rindex(story.name)
        return story.text[:later] + wrong.lower() + story.text[later + len(story.name) :]
    match = rng.choice(places)
    return story.text[: match.start()] + _other_pronoun(story.text, match) + story.text[match.end() :]


def change_hero(story: Story, rng: random.Random) -> str:
    """From some sentence after the opening on, the hero has another name, is of another kind, or both."""
    name = rng.choice([name for name in NAMES if name not in (story.name, story.helper)])
    kind = rng.choice([kind for kind in KINDS if kind not in (story.kind, story.helper_kind)])
    exchange = rng.choice(({story.name: name}, {story.kind: kind}, {story.name: name, story.kind: kind}))
    parts = sentences(story.text)
    if not any(_has(part, word) for part in parts[1:] for word in exchange):
        exchange = {story.name: name, story.kind: kind}
    last = max(place for place, part in enumerate(parts) if any(_has(part, word) for word in exchange))
    start = rng.randint(min(last, 1), min(last, len(parts) // 2 + 1))
    return " ".join([*parts[:start], *(_replaced(part, exchange) for part in parts[start:])])


CORRUPTIONS: Final[dict[str, Callable[[Story, random.Random], str]]] = {
    "names swapped": swap_names,
    "truncated": truncate,
    "sentences shuffled": shuffle,
    "sentence repeated": repeat,
    "wrong pronoun": change_pronoun,
    "wrong hero": change_hero,
}


def _has(part: str, word: str) -> bool:
    """Whether the sentence has this very word."""
    return re.search(rf"\b{word}\b", part) is not None


def _replaced(part: str, exchange: dict[str, str]) -> str:
    """The sentence with whole words exchanged, all at once, and its articles fitted again."""
    words = "|".join(exchange)
    return fit_articles(re.sub(rf"\b({words})\b", lambda match: exchange[match[0]], part))


def _other_pronoun(text: str, match: re.Match[str]) -> str:
    """The pronoun of the other gender, in the same case and with the same capital."""
    word = match[0].lower()
    if word == "her":
        other = "him" if _HER_AS_HIM.match(text, match.start()) else "his"
    else:
        other = _OTHER[word]
    return other.capitalize() if match[0][0].isupper() else other
