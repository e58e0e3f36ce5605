"""Reads a story back: whose it is, whether it holds together, and whether it does what was asked.

Every sentence is looked up among the phrasings of the grammar, whichever of them it is: phrasings mix freely. What is
strict is the whole: each beat once and in order, one hero with one kind and one pronoun, one helper, one thing, the
trouble that came solved, the wish that was made come true.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from pronk.world.beats import ENDINGS, FEELINGS, MEETINGS, OPENINGS, THANKS, WAKEFUL_ENDINGS
from pronk.world.grammar import every, fit_articles
from pronk.world.plots import BEATS, OBSTACLES, OPTIONAL, PLOTS, WANTS
from pronk.world.tell import Wish
from pronk.world.words import HE, KINDS, OBJECTS, PRONOUNS, SHE, SLOTS, TRAITS


@dataclass(frozen=True)
class Reading:
    """What a text tells. `object` is None if the text settles on none; `problems` are in plain words."""

    name: str | None
    kind: str | None
    trait: str | None
    object: str | None
    helper: str | None
    helper_kind: str | None
    plot: str | None
    well_formed: bool
    problems: tuple[str, ...]


@lru_cache(maxsize=4096)
def read(text: str) -> Reading:
    """Read any text at all; one that is no story has problems, never an error. Several who ask of a text in a row (its
    subject, whether it is well formed, what it is worth) have it read once."""
    parts = sentences(text)
    story = _Story()
    for sentence in parts:
        story.hear(sentence)
        if len(story.problems) > _ENOUGH:
            break
    story.close(text)
    name, kind, trait = story.words.get("name"), story.words.get("kind"), story.words.get("trait")
    if not story.opened:
        name, kind, trait = _hero(" ".join(parts[:2]))
    objects = {word for word in _WORD.findall(text) if word in _OBJECTS}
    return Reading(
        name=name,
        kind=kind,
        trait=trait,
        object=objects.pop() if len(objects) == 1 else None,
        helper=story.words.get("helper"),
        helper_kind=story.words.get("helper_kind"),
        plot=next((plot.name for place, plot in enumerate(PLOTS) if story.plots == 1 << place), None),
        well_formed=not story.problems,
        problems=tuple(story.problems),
    )


def well_formed(text: str) -> bool:
    """Whether the text is one whole story that holds together."""
    return read(text).well_formed


def is_about(text: str, kind: str) -> bool:
    """Whether the hero is of this kind, well told or not."""
    return read(text).kind == kind


def fulfils(text: str, wish: Wish) -> bool:
    """Whether hero and object are what the wish asks for, well told or not."""
    reading = read(text)
    asked = ((wish.kind, reading.kind), (wish.trait, reading.trait), (wish.object, reading.object))
    return all(word in (None, found) for word, found in (*asked, (wish.name, reading.name)))


def sentences(text: str) -> list[str]:
    """The text cut after each full stop, except inside quotation marks and before what still belongs to a quote."""
    cuts, quoted = [0], False
    for match in _STOP.finditer(text):
        place, after = match.end(), text[match.end() : match.end() + 1]
        if match[0] == '"':
            quoted = not quoted
            rest = text[place : place + 2]
            ends = not quoted and text[place - 2 : place - 1] in _STOPS and (rest[1:2].isupper() or rest[1:2] in '"')
        else:
            ends = not quoted and (not after or after.isspace())
        if ends:
            cuts.append(place)
    pieces = (text[start:end].strip() for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True))
    return [piece for piece in pieces if piece]


_STOP: Final = re.compile(r'["!.?]')
_STOPS: Final = (".", "!", "?")
_TOKEN: Final = re.compile(r"[A-Za-z]+|[^\sA-Za-z]")
_TOKEN_OR_SLOT: Final = re.compile(r"\{\w+\}|" + _TOKEN.pattern)
_WORD: Final = re.compile(r"[A-Za-z]+")
_OBJECTS: Final = frozenset(OBJECTS)
_ENOUGH: Final = 20
_ALL_PLOTS: Final = (1 << len(PLOTS)) - 1
_PRONOUN_SLOTS: Final = frozenset(HE)
_CLASS_OF_SLOT: Final = {
    **{slot: slot for slot in SLOTS},
    **dict.fromkeys(HE, "pronoun"),
    "helper": "name",
    "helper_kind": "kind",
}
_CLASS_OF_WORD: Final = {
    **{word: _CLASS_OF_SLOT[slot] for slot, table in SLOTS.items() for word in table},
    **dict.fromkeys((*HE.values(), *SHE.values(), "Him", "Himself", "Herself"), "pronoun"),
}
_HERO: Final = re.compile(
    rf"\b(?:[Aa]n?|[Tt]he|[Ll]ittle)\s+(?:({'|'.join(TRAITS)})\s+)?(?:[a-z]+\s+){{0,2}}?({'|'.join(KINDS)})\b"
    rf"(?:,?\s+(?:named|called)\s+({'|'.join(PRONOUNS)})\b)?"
)
_UNFIT: Final = {
    "trouble": "the trouble does not belong to the wish",
    "solution": "the trouble that is solved is not the one that came",
    "fulfilment": "the wish that comes true is not the one that was made",
}
_ROLES: Final = {"name": "the hero", "kind": "the hero", "trait": "the hero", "helper": "the helper"}


@dataclass(frozen=True)
class _Line:
    """One sentence of the grammar: its beat, a bit for each plot it fits, and what its table words have to be."""

    beat: int
    plots: int
    slots: tuple[str, ...]


@dataclass
class _Story:
    """What has been understood so far."""

    words: dict[str, str] = field(default_factory=dict)
    plots: int = _ALL_PLOTS
    beats: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    opened: bool = False

    def hear(self, sentence: str) -> None:
        """Take in the next sentence, in whichever of its meanings makes most sense."""
        key, words = _skeleton(_TOKEN.findall(sentence))
        lines = [line for line in _book().get(key, ()) if _literal(line, words)]
        if not lines:
            self.problems.append(f"this makes no sense: {sentence[:80]}")
            return
        line, problems = min(((line, self.doubts(line, words)) for line in lines), key=lambda pair: len(pair[1]))
        self.problems += problems
        self.beats.append(line.beat)
        self.opened = self.opened or line.beat == 0
        self.plots = self.plots & line.plots or self.plots
        for slot, word in zip(line.slots, words, strict=True):
            if slot.startswith("{") and slot[1:-1] not in _PRONOUN_SLOTS:
                self.words.setdefault(slot[1:-1], word)

    def doubts(self, line: _Line, words: list[str]) -> list[str]:
        """What would be wrong if the sentence meant this line."""
        doubts = []
        if line.beat in self.beats:
            doubts.append(f"the {BEATS[line.beat]} is told twice")
        elif self.beats and line.beat < max(self.beats):
            doubts.append(f"the {BEATS[line.beat]} comes too late")
        if not self.plots & line.plots:
            doubts.append(_UNFIT.get(BEATS[line.beat], f"the {BEATS[line.beat]} does not belong to the story"))
        known = dict(self.words)
        for slot, word in zip(line.slots, words, strict=True):
            if slot.startswith("{"):
                doubts += _clash(slot[1:-1], word, known)
        return doubts

    def close(self, text: str) -> None:
        """Note what the whole text lacks."""
        told = {BEATS[beat] for beat in self.beats}
        self.problems += [f"there is no {beat}" for beat in BEATS if beat not in told and beat not in OPTIONAL]
        if fit_articles(text) != text:
            self.problems.append('"a" and "an" are mixed up')


def _clash(slot: str, word: str, known: dict[str, str]) -> Iterator[str]:
    """What the word in the slot contradicts; what is new becomes known."""
    if slot in _PRONOUN_SLOTS:
        if "name" in known and PRONOUNS[known["name"]][slot] != word:
            yield f'"{word}" is said of {known["name"]}'
        return
    if known.setdefault(slot, word) != word:
        yield f"{_ROLES.get(slot, 'the ' + slot.replace('_', ' '))} is {known[slot]}, then {word}"
    if slot == "helper" and known.get("name") == word:
        yield f"the helper is called {word} like the hero"


def _literal(line: _Line, words: list[str]) -> bool:
    """Whether the table words that are no slots are the very words of the line."""
    return all(slot.startswith("{") or slot == word for slot, word in zip(line.slots, words, strict=True))


def _skeleton(tokens: list[str]) -> tuple[str, list[str]]:
    """The tokens with every slot or table word replaced by its class, and these slots or words."""
    parts, words = [], []
    for token in tokens:
        if len(token) > 1 and token[0] == "{":
            parts.append("<" + _CLASS_OF_SLOT[token[1:-1]] + ">")
            words.append(token)
        elif token in _CLASS_OF_WORD:
            parts.append("<" + _CLASS_OF_WORD[token] + ">")
            words.append(token)
        else:
            parts.append({"an": "a", "An": "A"}.get(token, token))
    return " ".join(parts), words


@lru_cache(maxsize=1)
def _book() -> dict[str, tuple[_Line, ...]]:
    """Every sentence of the grammar by its skeleton."""
    book: dict[str, dict[_Line, None]] = {}
    for beat, plots, phrasing in _phrasings():
        for sentence in every(phrasing):
            key, slots = _skeleton(_TOKEN_OR_SLOT.findall(sentence))
            book.setdefault(key, {})[_Line(BEATS.index(beat), plots, tuple(slots))] = None
    return {key: tuple(lines) for key, lines in book.items()}


def _phrasings() -> Iterator[tuple[str, int, str]]:
    """Each phrasing with its beat and a bit for each plot that it fits."""
    shared = (("opening", OPENINGS), ("feeling", FEELINGS), ("meeting", MEETINGS), ("thanks", THANKS))
    for beat, phrasings in (*shared, ("ending", ENDINGS)):
        yield from ((beat, _ALL_PLOTS, phrasing) for phrasing in phrasings)
    yield from (("ending", _ALL_PLOTS & ~_plots(want="sleep"), phrasing) for phrasing in WAKEFUL_ENDINGS)
    for key, want in WANTS.items():
        yield from (("wish", _plots(want=key), phrasing) for phrasing in want.wishes)
        yield from (("fulfilment", _plots(want=key), phrasing) for phrasing in want.fulfilments)
    for key, obstacle in OBSTACLES.items():
        yield from (("trouble", _plots(obstacle=key), phrasing) for phrasing in obstacle.troubles)
        yield from (("solution", _plots(obstacle=key), phrasing) for phrasing in obstacle.solutions)


def _plots(want: str = "", obstacle: str = "") -> int:
    """A bit for each plot with this want or this obstacle."""
    return sum(1 << place for place, plot in enumerate(PLOTS) if want == plot.want or obstacle == plot.obstacle)


def _hero(text: str) -> tuple[str | None, str | None, str | None]:
    """Name, kind and trait of whoever the text seems to introduce, if its opening is none that we know."""
    match = _HERO.search(text)
    if not match:
        return None, None, None
    name = match[3] or next((word for word in _WORD.findall(text) if word in PRONOUNS), None)
    return name, match[2], match[1]
