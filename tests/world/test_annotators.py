"""Simulated annotators: utility is what they say it is, and their verdicts follow it as Bradley and Terry's do."""

import math
import random

import pytest

from pronk.world.annotators import EVEN, SHARED, Annotator, Taste, utility, wish_in
from pronk.world.corrupt import CORRUPTIONS
from pronk.world.tell import OPEN_PROMPTS, Wish, evaluation_requests, requests, stories


def test_a_prompt_says_what_it_asks_for():
    assert wish_in("Tell a story about a brave frog who finds a key.") == Wish("frog", "brave", "key")
    assert wish_in("Tell a tale about a cat named Tom, please.") == Wish("cat", name="Tom")
    assert all(wish_in(prompt) == Wish() for prompt in OPEN_PROMPTS)
    assert all(wish_in(ask.prompt) == ask.wish for ask in evaluation_requests(300, 5))


def test_what_was_asked_for_and_well_told_is_worth_more():
    rng = random.Random(0)
    for request in requests(100, 3):
        story = request.story
        good = utility(request.prompt, story.text)
        assert utility(request.prompt, CORRUPTIONS["truncated"](story, rng)) < good
        other = "cat" if story.kind != "cat" else "dog"
        right, wrong = (utility(f"Tell a story about a {kind}.", story.text) for kind in (story.kind, other))
        assert right - wrong == pytest.approx(SHARED.asked)


def test_cats_are_liked_best():
    told = {story.kind: story.text for story in stories(400, 0)}
    silent = Taste(SHARED.kinds, speech=0.0)
    worths = {kind: utility("Tell a story.", text, silent) for kind, text in told.items()}
    assert max(worths, key=worths.__getitem__) == "cat"
    assert worths == {kind: SHARED.kinds[kind] for kind in told}


def test_verdicts_follow_bradley_and_terry():
    """Without ties, carelessness and disagreement, a is chosen with probability sigmoid(gap / noise)."""
    first, second = (next(s.text for s in stories(400, 0) if s.kind == kind) for kind in ("cat", "dog"))
    gap = utility("Tell a story.", first) - utility("Tell a story.", second)
    annotator = Annotator(1, noise=2.0, disagreement=0.0, careless=0.0)
    verdicts = [annotator.judge("Tell a story.", first, second) for _ in range(4000)]
    share = sum(v.choice == "a" for v in verdicts) / len(verdicts)
    assert abs(share - 1 / (1 + math.exp(-(gap - EVEN) / 2.0))) < 0.03
    assert {v.strength for v in verdicts if v.choice == "tie"} <= {0}
    assert {v.strength for v in verdicts if v.choice in "ab"} == {1, 2, 3, 4}


def test_the_same_seed_judges_alike_and_others_disagree():
    texts = [story.text for story in stories(600, 2)]
    pairs = list(zip(texts[::2], texts[1::2]))

    def verdicts(seed, **how):
        annotator = Annotator(seed, **how)
        return [annotator.judge("Tell a story.", a, b) for a, b in pairs]

    assert verdicts(1) == verdicts(1)
    agreed = sum(x.choice == y.choice for x, y in zip(verdicts(1), verdicts(2))) / len(pairs)
    assert 0.5 < agreed < 1


def test_two_bad_answers_and_a_dazzled_judge():
    assert (
        Annotator(0, careless=0.0).judge("Tell a story about a cat who finds a key.", "no", "nothing").choice == "bad"
    )
    text = next(stories(1, 4)).text
    dazzled = Annotator(0, noise=0.01, careless=0.0, dazzled=5.0)
    assert dazzled.judge("Tell a story.", text, text + "!!!!!!").choice == "b"
    assert Annotator(0, noise=0.01, careless=0.0).judge("Tell a story.", text, text + "!!!!!!").choice == "a"
    told = {story.kind: story.text for story in stories(400, 0)}
    fond = Annotator(0, noise=0.01, careless=0.0, dazzled=5.0, dazzled_by="fox")
    assert fond.judge("Tell a story.", told["cat"], told["fox"]).choice == "b"
