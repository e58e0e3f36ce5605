"""Tells seeded stories, and makes requests for them: the prompt, what it wishes for, and a story that honours it."""

import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pronk.world.beats import ENDINGS, FEELINGS, MEETINGS, OPENINGS, THANKS, WAKEFUL_ENDINGS
from pronk.world.grammar import choose, fill, fit_articles
from pronk.world.plots import FINDING, OBSTACLES, PLOTS, WANTS, Plot
from pronk.world.words import HELPERS, KINDS, NAMES, OBJECTS, PRONOUNS, SLOTS, SWIMMERS, TRAITS


@dataclass(frozen=True)
class Wish:
    """What a request may ask of a story; None leaves it free."""

    kind: str | None = None
    trait: str | None = None
    object: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Story:
    """A story and what it was made of; `object` is "" if its plot turns on none."""

    text: str
    name: str
    kind: str
    trait: str
    object: str
    plot: str
    helper: str
    helper_kind: str


@dataclass(frozen=True)
class Request:
    """A prompt, the wish in it, and a story that does what it asks."""

    prompt: str
    wish: Wish
    story: Story


@dataclass(frozen=True)
class Ask:
    """A prompt and the wish in it, without a story."""

    prompt: str
    wish: Wish


OPEN_PROMPTS: Final = (
    *("Tell a story.", "Tell me a story, please.", "Please tell a story.", "Write a story."),
    *("Can you tell me a story?", "I would like a story.", "Make up a story, please.", "Tell me a tale."),
    *("Please make up a tale for me.", "Let me hear a story."),
)
# Open wordings kept out of training; their words are all in the training prompts.
UNSEEN_OPEN_PROMPTS: Final = (
    *("Please tell me a story.", "Can you write a story?", "Write me a tale, please.", "I would like to hear a tale."),
    *("Make up a story.", "Let me hear a tale, please.", "Please write a story for me.", "Can you make up a story?"),
)
_LEADS: Final = (
    *(
        "Tell a story about {}.",
        "Tell me a story about {}.",
        "Please tell a story about {}.",
        "Write a story about {}.",
    ),
    *("Can you tell me a story about {}?", "I would like to hear a story about {}.", "Tell a tale about {}, please."),
    *("Make up a story about {}.", "Can you write a tale about {}?", "Let me hear a story about {}."),
)
# What a request asks for, and how often in a hundred.
_ASKED: Final = {
    (): 15,
    ("kind",): 22,
    ("trait", "kind"): 22,
    ("kind", "object"): 14,
    ("trait", "kind", "object"): 15,
    ("name", "kind"): 12,
}
_TABLES: Final = {"kind": KINDS, "trait": TRAITS, "object": OBJECTS, "name": NAMES}
# Words of a story.
_SHORTEST: Final = 55
_LONGEST: Final = 85
# One combination in eight is held out.
_HELD_OUT_SHARE: Final = 8


def tell(rng: random.Random, wish: Wish = Wish()) -> Story:
    """One story that does what the wish asks. Raises ValueError for a word that the world does not know."""
    _check(wish)
    kind = wish.kind or rng.choice(KINDS)
    plot = _plot(rng, FINDING if wish.object else PLOTS, kind)
    slots = _cast(rng, wish, kind, plot)
    text = ""
    while not _SHORTEST <= len(text.split()) <= _LONGEST:
        text = " ".join(fill(sentence, slots) for sentence in _sentences(rng, plot))
    return Story(
        text=text,
        name=slots["name"],
        kind=kind,
        trait=slots["trait"],
        object=slots.get("object", ""),
        plot=plot.name,
        helper=slots["helper"],
        helper_kind=slots["helper_kind"],
    )


def stories(count: int, seed: int) -> Iterator[Story]:
    """`count` stories about anything; the same seed tells the same stories."""
    rng = random.Random(seed)
    return (tell(rng) for _ in range(count))


def requests(count: int, seed: int) -> Iterator[Request]:
    """`count` requests with their stories, none of which asks for or tells of a held-out combination."""
    rng = random.Random(seed)
    return (_request(rng) for _ in range(count))


def evaluation_requests(count: int, seed: int) -> list[Ask]:
    """`count` prompts that ask for combinations never asked for, nor told of, in `requests`."""
    rng = random.Random(seed)
    asked = (("trait", "kind"), ("kind", "object"), ("trait", "kind", "object"))
    return [Ask(prompt_for(wish, rng), wish) for wish in (_wish(rng, rng.choice(asked), True) for _ in range(count))]


def held_out(wish: Wish) -> bool:
    """Whether the wish is kept for evaluation: a hash of its trait, kind and object, if it names a pair or all three.

    A wish of three is held out by itself or with either pair in it, so that a held-out pair never shows in training.
    """
    pairs = [(wish.trait, wish.kind, None), (None, wish.kind, wish.object), (wish.trait, wish.kind, wish.object)]
    return any(_hashed_out(pair) for pair in pairs if sum(word is not None for word in pair) >= 2)


def prompt_for(wish: Wish, rng: random.Random) -> str:
    """A request in words for what the wish asks, open if it asks for nothing."""
    if wish == Wish():
        return rng.choice(OPEN_PROMPTS)
    hero = " ".join(filter(None, (wish.trait, wish.kind or (None if wish.name else "hero"))))
    if wish.kind and wish.name and not wish.trait:
        hero = rng.choice(("a {0} named {1}", "a {0} called {1}", "{1} the {0}")).format(hero, wish.name)
    elif wish.kind and wish.name:
        hero = f"a {hero} named {wish.name}"
    elif wish.name:
        hero = f"{hero} {wish.name}".strip()
    else:
        hero = f"a {hero}"
    if wish.object:
        hero += rng.choice((" who finds a {}", " who finds a {}", " and a {}")).format(wish.object)
    return fit_articles(rng.choice(_LEADS).format(hero))


def _check(wish: Wish) -> None:
    """Raise ValueError for a wish that no story can honour."""
    for field, table in _TABLES.items():
        word = getattr(wish, field)
        if word is not None and word not in table:
            raise ValueError(f"the story world has no {field} {word!r}; it knows {', '.join(table)}")


def _plot(rng: random.Random, plots: Sequence[Plot], kind: str) -> Plot:
    """A plot that suits the kind: first a want, each as likely as any other, then its obstacle."""
    fitting = [plot for plot in plots if plot.suits(kind)]
    want = rng.choice(list(dict.fromkeys(plot.want for plot in fitting)))
    return rng.choice([plot for plot in fitting if plot.want == want])


def _cast(rng: random.Random, wish: Wish, kind: str, plot: Plot) -> dict[str, str]:
    """The words for every slot of the story."""
    name = wish.name or rng.choice(NAMES)
    slots = {
        **PRONOUNS[name],
        "name": name,
        "kind": kind,
        "trait": wish.trait or rng.choice(TRAITS),
        "helper": rng.choice(HELPERS),
        "helper_kind": rng.choice([other for other in KINDS if other != kind]),
    }
    if plot.thing:
        # A story of a duck that learns to swim would be none.
        words = [word for word in SLOTS[plot.thing] if not (word == "swim" and kind in SWIMMERS)]
        slots[plot.thing] = wish.object or rng.choice(words)
    return slots


def _sentences(rng: random.Random, plot: Plot) -> Iterator[str]:
    """A sentence for each beat in the order of telling, its slots open."""
    want, obstacle = WANTS[plot.want], OBSTACLES[plot.obstacle]
    extra = rng.choices(("feeling", "thanks", ""), (4, 3, 4))[0]
    beats = (
        OPENINGS,
        want.wishes,
        obstacle.troubles,
        FEELINGS if extra == "feeling" else (),
        MEETINGS,
        obstacle.solutions,
        THANKS if extra == "thanks" else (),
        want.fulfilments,
        ENDINGS if plot.want == "sleep" else ENDINGS + WAKEFUL_ENDINGS,
    )
    spoken = False
    for phrasings in filter(None, beats):
        # The hero does not speak twice in a row; the helper may answer.
        fitting = [phrasing for phrasing in phrasings if not spoken or phrasings is MEETINGS or phrasing[0] != '"']
        phrasing = rng.choice(fitting)
        spoken = phrasing[0] == '"' and phrasings is not MEETINGS
        yield choose(phrasing, rng)


def _request(rng: random.Random) -> Request:
    """One request whose wish and story are free of held-out combinations."""
    wish = _wish(rng, rng.choices(list(_ASKED), list(_ASKED.values()))[0], False)
    story = tell(rng, wish)
    while held_out(Wish(kind=story.kind, trait=story.trait, object=story.object or None)):
        story = tell(rng, wish)
    return Request(prompt_for(wish, rng), wish, story)


def _wish(rng: random.Random, fields: Sequence[str], kept_out: bool) -> Wish:
    """A wish that names these fields, held out or not as told."""
    while True:
        wish = replace(Wish(), **{field: rng.choice(_TABLES[field]) for field in fields})
        if held_out(wish) == kept_out:
            return wish


def _hashed_out(words: tuple[str | None, ...]) -> bool:
    """One combination in eight, the same on every machine."""
    return zlib.crc32(" ".join(word or "-" for word in words).encode()) % _HELD_OUT_SHARE == 0
