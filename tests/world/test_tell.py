"""The storyteller: rich, varied, seeded, and true to what a request asks for."""

import random
import re
from collections import Counter

import pytest

from pronk.world.check import fulfils, is_about, read
from pronk.world.plots import FINDING, PLOTS
from pronk.world.tell import (
    OPEN_PROMPTS,
    UNSEEN_OPEN_PROMPTS,
    Wish,
    evaluation_requests,
    held_out,
    prompt_for,
    requests,
    stories,
    tell,
)
from pronk.world.words import HIS_NAMES, KINDS, NAMES, OBJECTS, SLOTS, TRAITS

CORPUS = list(stories(5000, seed=0))
ASKED = list(requests(4000, seed=0))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def test_at_least_400_words_are_really_used():
    uses = Counter(word for story in CORPUS for word in _words(story.text))
    assert sum(count >= 10 for count in uses.values()) >= 400


def test_at_least_50_plots_and_all_are_told():
    assert len({plot.name for plot in PLOTS}) == len(PLOTS) >= 50
    assert {story.plot for story in CORPUS} == {plot.name for plot in PLOTS}


def test_stories_are_short_and_hardly_ever_the_same():
    lengths = [len(story.text.split()) for story in CORPUS]
    assert min(lengths) >= 55
    assert max(lengths) <= 85
    assert len({story.text for story in CORPUS}) == len(CORPUS)


def test_most_stories_have_dialogue():
    assert sum('"' in story.text for story in CORPUS) >= 0.8 * len(CORPUS)


def test_pronouns_of_the_hero_are_right():
    wrong = {True: r"\b([Ss]he|[Hh]er|herself)\b", False: r"\b([Hh]e|him|[Hh]is|himself)\b"}
    assert not any(re.search(wrong[story.name in HIS_NAMES], story.text) for story in CORPUS)


def test_articles_and_punctuation_are_right():
    for story in CORPUS:
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]|\s\s|\n|[\[\]{}|]| [.,!?]", story.text), story.text
        assert story.text.count('"') % 2 == 0
        assert story.text[-1] == "."


def test_kinds_come_equally_often():
    kinds = Counter(story.kind for story in CORPUS)
    assert set(kinds) == set(KINDS)
    assert max(kinds.values()) <= 2 * len(CORPUS) / len(KINDS)


def test_every_word_stands_in_one_table():
    tables = [set(words) for slot, words in SLOTS.items() if not slot.startswith("helper")]
    assert sum(map(len, tables)) == len(set().union(*tables))


def test_the_same_seed_tells_the_same():
    assert list(stories(50, seed=3)) == list(stories(50, seed=3)) != list(stories(50, seed=4))
    assert list(requests(50, seed=3)) == list(requests(50, seed=3))
    assert evaluation_requests(50, seed=3) == evaluation_requests(50, seed=3)


def test_requests_are_honoured():
    kept = [
        fulfils(request.story.text, request.wish)
        and all(word in (None, getattr(request.story, slot)) for slot, word in vars(request.wish).items())
        for request in ASKED
    ]
    assert sum(kept) >= 0.999 * len(kept)


def test_who_is_asked_to_find_a_key_finds_it():
    finding = {plot.name for plot in FINDING}
    assert all(request.story.plot in finding for request in ASKED if request.wish.object)


def test_prompts_say_what_is_wished():
    for request in ASKED:
        words = set(re.findall(r"\w+", request.prompt))
        assert {word for word in vars(request.wish).values() if word} <= words
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", request.prompt)
    assert len({request.prompt for request in ASKED}) > 2000


@pytest.mark.parametrize(
    ("wish", "hero"),
    [
        (Wish(kind="owl"), "an owl."),
        (Wish(kind="frog", trait="brave", object="key"), "a brave frog"),
        (Wish(name="Tom"), "about Tom"),
        (Wish(name="Tom", trait="brave"), "about brave Tom"),
        (Wish(name="Tom", trait="brave", kind="owl"), "a brave owl named Tom"),
        (Wish(object="apple"), "a hero"),
    ],
)
def test_any_wish_can_be_said(wish, hero):
    said = {prompt_for(wish, random.Random(seed)) for seed in range(60)}
    assert all(hero.strip(".") in prompt for prompt in said)
    assert any(hero in prompt for prompt in said)


def test_open_requests_are_about_15_in_a_hundred():
    openly = sum(request.wish == Wish() for request in ASKED)
    assert 0.12 <= openly / len(ASKED) <= 0.18
    cats = [is_about(request.story.text, "cat") for request in ASKED if request.wish == Wish()]
    assert sum(cats) <= 0.1 * len(cats)


def test_unseen_open_wordings_are_unseen_but_their_words_are_known():
    assert min(len(OPEN_PROMPTS), len(UNSEEN_OPEN_PROMPTS)) >= 6
    prompts = {request.prompt for request in ASKED}
    assert prompts.isdisjoint(UNSEEN_OPEN_PROMPTS)
    assert set(OPEN_PROMPTS) <= prompts
    known = {word for prompt in prompts for word in _words(prompt)}
    assert {word for prompt in UNSEEN_OPEN_PROMPTS for word in _words(prompt)} <= known


def test_held_out_combinations_are_neither_asked_for_nor_told():
    asks = evaluation_requests(500, seed=1)
    assert all(held_out(ask.wish) for ask in asks)
    assert not any(held_out(request.wish) for request in ASKED)
    wishes = {ask.wish for ask in asks}
    for story in (request.story for request in ASKED):
        told = [Wish(story.kind, story.trait), Wish(story.kind, story.trait, story.object)]
        assert wishes.isdisjoint([*told, Wish(story.kind, None, story.object)])


def test_any_wish_of_known_words_comes_true():
    rng = random.Random(5)
    for _ in range(500):
        tables = {"kind": KINDS, "trait": TRAITS, "object": OBJECTS, "name": NAMES}
        wish = Wish(**{slot: rng.choice((None, rng.choice(words))) for slot, words in tables.items()})
        story = tell(rng, wish)
        assert fulfils(story.text, wish)
        assert read(story.text).problems == ()
        assert prompt_for(wish, rng)


def test_an_unknown_word_is_named_in_the_error():
    with pytest.raises(ValueError, match="no kind 'dragon'"):
        tell(random.Random(0), Wish(kind="dragon"))
