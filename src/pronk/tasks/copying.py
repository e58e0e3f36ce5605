"""Word copying: made-up words that can be spoken, to be said again letter by letter; the sides share no word."""

import random
from collections.abc import Iterator, Sequence

from pronk.data.encode import place_of
from pronk.data.records import Conversation, Message, Prompt, Sample
from pronk.errors import UserError
from pronk.tasks.task import Split

TEST_SHARE = 0.1  # of all words
LONGEST = 8
ONSETS = ("", *"bcdfghjklmnpqrstvwxyz", "br", "ch", "cl", "dr", "fl", "gr", "pl", "sh", "sl", "sn", "st", "th", "tr")
VOWELS = (*"aeiouy", "ai", "ea", "ee", "oa", "oo", "ou")
CODAS = ("", "", "", *"bdgklmnprstxz", "ck", "ll", "nd", "ng", "nt", "rk", "ss", "st")


class Copying:
    """The answer is the prompt's own word. A reward for each leading letter that is right is `copied` (rl/rewards)."""

    name = "copying"

    def prompts(self, split: Split, count: int, seed: int = 0, levels: Sequence[str] = ()) -> list[Prompt]:
        """`count` different words of 1 to 8 letters."""
        if levels:
            raise UserError(f"copying has no levels: leave out {levels[0]!r}")
        words = self._words(split, seed)
        return [
            Prompt((Message("user", word),), {"answer": word, "task": self.name})
            for word, _ in zip(words, range(count))
        ]

    def worked(self, prompt: Prompt) -> Conversation:
        return Conversation((*prompt.messages, Message("assistant", prompt.messages[-1].content)))

    def grade(self, sample: Sample) -> float:
        """1 where the answer is the word and ended by itself."""
        return float(sample.finish == "stop" and sample.text == sample.prompt.meta.get("answer"))

    def _words(self, split: Split, seed: int) -> Iterator[str]:
        draw, seen = random.Random(f"words/{split}/{seed}"), set[str]()
        while True:
            word = spoken(draw)
            if word not in seen and side(word) == split:
                seen.add(word)
                yield word


def spoken(draw: random.Random) -> str:
    """One to three syllables, of LONGEST letters at most."""
    while True:
        count = draw.choice((1, 2, 2, 3, 3))
        word = "".join(draw.choice(part) for _ in range(count) for part in (ONSETS, VOWELS, CODAS))
        if len(word) <= LONGEST:
            return word


def side(word: str) -> Split:
    return "test" if place_of(word) < TEST_SHARE else "train"
