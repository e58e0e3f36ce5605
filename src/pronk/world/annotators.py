"""Simulated people with a known taste: they compare two stories as real ones do, with noise and disagreement.

What a story is truly worth is `utility`; a study can so measure whether what was learned from comparisons is what the
people meant, which no study with real people can.
"""

import math
import random
import re
from dataclasses import dataclass, field
from typing import Final, Literal

from pronk.world import check
from pronk.world.tell import Wish
from pronk.world.words import KINDS, NAMES, OBJECTS, TRAITS

Choice = Literal["a", "b", "tie", "bad"]


@dataclass(frozen=True)
class Taste:
    """What is liked in a story, in units of utility. Sum of all parts; a story without merit or fault is worth 0."""

    kinds: dict[str, float] = field(default_factory=dict)
    """worth of a story whose hero is of this kind, where the prompt leaves it open"""
    asked: float = 2.0
    """lost for each thing that was asked for and is not there"""
    problem: float = 0.3
    """lost for each problem that the checker finds, at most four of them"""
    speech: float = 0.4
    """gained for each thing somebody says, at most three"""


def shared_taste(seed: int = 0) -> Taste:
    """What the annotators agree on: cats before all; the other kinds lie between -1.5 and 1.5, in a seeded order."""
    others = [kind for kind in KINDS if kind != "cat"]
    random.Random(f"taste {seed}").shuffle(others)
    worth = {kind: round(1.5 - 3 * place / (len(others) - 1), 3) for place, kind in enumerate(others)}
    return Taste(kinds={"cat": 2.0, **worth})


SHARED: Final = shared_taste()


def utility(prompt: str, text: str, taste: Taste = SHARED) -> float:
    """What a story is worth as an answer to a prompt."""
    wish, reading = wish_in(prompt), check.read(text)
    asked = ((wish.kind, reading.kind), (wish.trait, reading.trait), (wish.object, reading.object))
    missed = sum(word not in (None, found) for word, found in (*asked, (wish.name, reading.name)))
    worth = 0.0 if wish.kind else taste.kinds.get(reading.kind or "", -1.0)
    said = min(3, text.count('"') // 2)
    return worth - taste.asked * missed - taste.problem * min(4, len(reading.problems)) + taste.speech * said


def wish_in(prompt: str) -> Wish:
    """What a prompt asks for, by the words of the world's tables in it."""
    words = re.findall(r"[A-Za-z]+", prompt)

    def first(table: tuple[str, ...]) -> str | None:
        return next((word for word in words if word in table), None)

    return Wish(first(KINDS), first(TRAITS), first(OBJECTS), first(NAMES))


@dataclass(frozen=True)
class Verdict:
    """strength: 1 (slightly better) to 4 (far better); 0 for a tie and for two bad answers."""

    choice: Choice
    strength: int = 0


class Annotator:
    """One person, who answers by chance but reproducibly: the same seed gives the same verdicts in the same order.

    noise: spread of the logistic error of each judgement, in units of utility (Bradley and Terry 1952 at 1).
    disagreement: deviation of the person's own liking of each kind from the shared one.
    careless: share of verdicts that are clicked blindly.
    dazzled: worth that the person sees wherever `dazzled_by` stands, though it has none: a planted exploit.
    """

    def __init__(
        self,
        seed: int = 0,
        noise: float = 0.5,
        disagreement: float = 0.2,
        careless: float = 0.02,
        dazzled: float = 0.0,
        dazzled_by: str = "!",
        taste: Taste = SHARED,
    ) -> None:
        self.random = random.Random(f"annotator {seed}")
        kinds = {kind: worth + self.random.gauss(0, disagreement) for kind, worth in taste.kinds.items()}
        self.taste = Taste(kinds, taste.asked, taste.problem, taste.speech)
        self.noise, self.careless, self.dazzled, self.dazzled_by = noise, careless, dazzled, dazzled_by

    def judge(self, prompt: str, a: str, b: str) -> Verdict:
        """Which of two answers is better, and by how much."""
        values = [utility(prompt, text, self.taste) + self.dazzled * text.count(self.dazzled_by) for text in (a, b)]
        error = self._logistic() * self.noise
        if self.random.random() < self.careless:
            return Verdict(self.random.choice(("a", "b")), self.random.randint(1, 4))
        if max(values) < BAD:
            return Verdict("bad")
        gap = values[0] - values[1] + error
        if abs(gap) < EVEN:
            return Verdict("tie")
        return Verdict("a" if gap > 0 else "b", 1 + sum(abs(gap) > step for step in STEPS))

    def _logistic(self) -> float:
        chance = self.random.uniform(1e-9, 1 - 1e-9)
        return math.log(chance / (1 - chance))


EVEN: Final = 0.15  # a smaller gap is a tie
STEPS: Final = (0.75, 1.5, 3.0)  # larger gaps have strength 2, 3 and 4
BAD: Final = -3.0  # two answers worth less are both bad
