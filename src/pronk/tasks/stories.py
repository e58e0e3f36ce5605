"""Stories as they were asked for: prompts about the story world, whose checker says whether the answer is one."""

import random
from collections.abc import Sequence

from pronk.data.records import Conversation, Message, Prompt, Sample
from pronk.errors import UserError
from pronk.tasks.task import Split
from pronk.world import check
from pronk.world.annotators import wish_in
from pronk.world.tell import OPEN_PROMPTS, UNSEEN_OPEN_PROMPTS, Wish, evaluation_requests, held_out, requests, tell

LEVELS = ("open", "asked")


class Stories:
    """Half of the prompts leave everything open, in words that come again; half ask for a hero or a thing.

    The test side asks for combinations, and in words, that the training side never does.
    """

    name = "stories"

    def prompts(self, split: Split, count: int, seed: int = 0, levels: Sequence[str] = ()) -> list[Prompt]:
        """`count` prompts, the levels taking turns; each has the seed of its worked answer in its meta."""
        if unknown := sorted(set(levels) - set(LEVELS)):
            raise UserError(f"stories has no level {unknown[0]!r}; there are {', '.join(LEVELS)}")
        rng, chosen = random.Random(f"stories/{split}/{seed}"), levels or LEVELS
        each = -(-count // len(chosen))
        openings = OPEN_PROMPTS if split == "train" else UNSEEN_OPEN_PROMPTS
        texts = {"open": rng.choices(openings, k=each), "asked": _asked(split, each, rng.getrandbits(32))}
        rows = [(level, texts[level][place]) for place in range(each) for level in chosen]
        return [self._prompt(level, text, rng.getrandbits(32)) for level, text in rows[:count]]

    def worked(self, prompt: Prompt) -> Conversation:
        """The prompt with a story that does what it asks; none of the test side's combinations is told of."""
        text = prompt.messages[-1].content
        rng, wish = random.Random(prompt.meta["seed"]), wish_in(text)
        story = tell(rng, wish)
        while not held_out(wish) and held_out(Wish(story.kind, story.trait, story.object or None)):
            story = tell(rng, wish)
        return Conversation((*prompt.messages, Message("assistant", story.text)))

    def grade(self, sample: Sample) -> float:
        """1 where the answer ended by itself, is a whole story that holds together, and does what was asked."""
        wish = wish_in(sample.prompt.messages[-1].content)
        good = sample.finish == "stop" and check.well_formed(sample.text) and check.fulfils(sample.text, wish)
        return float(good)

    def _prompt(self, level: str, text: str, seed: int) -> Prompt:
        """With the kind that is asked for, as the subject reward reads it."""
        meta = {"kind": wish_in(text).kind, "level": level, "task": self.name, "seed": seed}
        return Prompt((Message("user", text),), meta)


def _asked(split: Split, count: int, seed: int) -> list[str]:
    if split == "test":
        return [ask.prompt for ask in evaluation_requests(count, seed)]
    found: list[str] = []
    for request in requests(20 * count + 100, seed):
        if len(found) == count:
            break
        if request.wish.kind:
            found.append(request.prompt)
    return found
