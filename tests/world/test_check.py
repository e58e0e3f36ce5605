"""The checker earns its trust: it passes what is true, however phrased, and flags what is spoiled or only looks so."""

import random
from collections import defaultdict

import pytest

from pronk.world.beats import ENDINGS, FEELINGS, MEETINGS, OPENINGS, THANKS
from pronk.world.check import fulfils, is_about, read, sentences, well_formed
from pronk.world.corrupt import CORRUPTIONS
from pronk.world.grammar import every, fill
from pronk.world.plots import OBSTACLES, PLOTS, WANTS
from pronk.world.tell import Wish, stories
from pronk.world.words import PRONOUNS

TOM = (
    "Once upon a time, there was a brave frog named Tom. One day, Tom wanted to find a key. "
    "But the snow was so deep that he could not walk. Then Lily the cat came by and said, "
    '"I can help you." Lily had a sled and pulled Tom over the snow. "I found a key!" cried Tom. '
    "From that day on, Tom and Lily were best friends."
)


def test_a_story_reads_back_as_it_was_meant():
    for story in stories(3000, seed=7):
        reading = read(story.text)
        assert (reading.name, reading.kind, reading.trait) == (story.name, story.kind, story.trait)
        assert (reading.object or "", reading.plot) == (story.object, story.plot)
        assert (reading.helper, reading.helper_kind) == (story.helper, story.helper_kind)


def test_true_stories_are_well_formed():
    told = [well_formed(story.text) for story in stories(3000, seed=8)]
    assert sum(told) >= 0.995 * len(told)


@pytest.mark.parametrize("kind", sorted(CORRUPTIONS))
def test_spoiled_stories_are_flagged(kind):
    rng = random.Random(9)
    told = list(stories(500, seed=9))
    spoiled = [CORRUPTIONS[kind](story, rng) for story in told]
    assert all(text != story.text for text, story in zip(spoiled, told, strict=True))
    assert sum(not well_formed(text) for text in spoiled) >= 0.95 * len(spoiled)


def test_there_are_six_ways_to_spoil_a_story():
    six = {"names swapped", "truncated", "sentences shuffled", "sentence repeated", "wrong pronoun", "wrong hero"}
    assert set(CORRUPTIONS) == six


def test_text_of_a_five_gram_model_is_rarely_well_formed():
    after = defaultdict(list)
    for story in stories(6000, seed=10):
        words = ["", "", "", "", *story.text.split(), ""]
        for place in range(4, len(words)):
            after[tuple(words[place - 4 : place])].append(words[place])
    rng = random.Random(10)
    told = [_babble(after, rng) for _ in range(500)]
    assert sum(map(well_formed, told)) <= 0.3 * len(told)


def _babble(after, rng):
    words = ["", "", "", "", ""]
    while len(words) == 5 or (words[-1] and len(words) < 300):
        words.append(rng.choice(after[tuple(words[-4:])]))
    return " ".join(filter(None, words))


def test_phrasings_mix_freely():
    """Any phrasing of a beat goes with any phrasing of the next, whichever the teller would have chosen."""
    rng = random.Random(12)
    slots = {
        **PRONOUNS["Zoe"],
        "name": "Zoe",
        "kind": "owl",
        "trait": "shy",
        "helper": "Ben",
        "helper_kind": "elephant",
    }
    slots |= {"object": "apple", "skill": "sing", "sight": "sea", "build": "hut", "food": "pie", "plant": "rose"}
    for _ in range(2000):
        plot = rng.choice(PLOTS)
        want, obstacle = WANTS[plot.want], OBSTACLES[plot.obstacle]
        extra = rng.choice(([], [FEELINGS]))
        beats = [OPENINGS, want.wishes, obstacle.troubles, *extra, MEETINGS, obstacle.solutions, THANKS]
        beats += [want.fulfilments, ENDINGS]
        text = " ".join(fill(rng.choice(list(every(rng.choice(phrasings)))), slots) for phrasings in beats)
        assert read(text).problems == (), text


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("Lily had a sled", "Tom had a sled", "the helper is Lily, then Tom"),
        ("pulled Tom", "pulled Ben", "the hero is Tom, then Ben"),
        ("found a key", "found a ball", "the object is key, then ball"),
        ("that he could", "that she could", '"she" is said of Tom'),
        ("Lily had a sled and pulled Tom over the snow", "Lily lit a lantern", "this makes no sense"),
        (
            "Lily had a sled and pulled Tom over the snow",
            "Lily knew every stone and led Tom out of the fog",
            "the trouble that is solved is not the one that came",
        ),
        ('"I found a key!" cried Tom', '"I am home!" cried Tom', "the wish that comes true is not the one"),
        (" From that day on, Tom and Lily were best friends.", "", "there is no ending"),
        ("a brave frog", "an brave frog", '"a" and "an" are mixed up'),
        ("Tom and Lily were", "Lily and Lily were", "the hero is Tom, then Lily"),
    ],
)
def test_problems_are_said_in_plain_words(old, new, problem):
    assert old in TOM
    assert any(problem in said for said in read(TOM.replace(old, new)).problems)


def test_whose_story_it_is():
    assert is_about(TOM, "frog")
    assert not is_about(TOM, "cat")
    assert is_about("A silly little cat named Tom sat on a mat.", "cat")
    assert is_about("One day a brave cat", "cat")
    assert not is_about("cat cat cat cat", "cat")
    assert not is_about("There was a dog named Tom. He met a cat.", "cat")


def test_doing_what_was_asked_needs_no_perfect_story():
    broken = TOM.replace("he could", "she could")
    assert not well_formed(broken)
    assert fulfils(broken, Wish(kind="frog", trait="brave", object="key", name="Tom"))
    assert not fulfils(broken, Wish(object="ball"))
    assert not fulfils(broken, Wish(trait="shy"))
    assert not fulfils(broken, Wish(name="Lily"))
    assert fulfils("", Wish())


def test_a_story_with_two_objects_settles_on_none():
    assert read(TOM.replace("found a key", "found a ball")).object is None


def test_sentences_end_where_quotes_let_them():
    parts = sentences('Tom ran. "Oh no! Help," said Tom. Lily said, "I am here." "Who?" asked Tom. The end')
    assert parts == ["Tom ran.", '"Oh no! Help," said Tom.', 'Lily said, "I am here."', '"Who?" asked Tom.', "The end"]


def test_any_text_at_all_can_be_read():
    rng = random.Random(13)
    junk = [
        "",
        " ",
        "\n",
        '"',
        '".',
        "{name}",
        "{",
        "{}",
        "{foo}.",
        "[a|b]",
        "ß水🐸.",
        "\x00",
        "a" * 10_000,
        '"' * 9_999,
    ]
    junk += [". " * 5_000, TOM * 60, TOM.upper(), TOM[::-1], "little " * 2_000, "a cat " * 2_000, "the a b " * 2_000]
    alphabet = [*' ".!?{}[]|\n\t', "Tom", "he", "an", "cat", "key", "é", "\ud800", "Once upon a time, "]
    junk += ["".join(rng.choices(alphabet, k=rng.randrange(200))) for _ in range(1000)]
    for text in junk:
        reading = read(text)
        assert reading.well_formed is False
        assert reading.problems
        for cut in (text[:50], text[-50:]):
            assert not well_formed(cut)
