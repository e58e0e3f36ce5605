"""Rewards: batched, lifted, from the user's file, weighted; errors that name the word and the cure."""

from contextlib import nullcontext

import numpy as np
import pytest

from pronk.data.records import Message, Prompt
from pronk.errors import UserError
from pronk.rl.rewards import REWARDS, each, from_file, named, similarity, subject
from pronk.world.annotators import SHARED
from pronk.world.tell import stories

from .toys import samples_of

FILE = '''
from pathlib import Path

def funny(sample):
    """One sample at a time."""
    return len(sample.ids) * 10

def together(samples):
    """All at once, a number for each token."""
    return [[0.5] * len(s.ids) for s in samples]

NUMBER = 3
'''
SAMPLES = samples_of([[1, 2, 3], [4, 5]])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_rewards.py"
    path.write_text(FILE)
    return path


def test_each_lifts_a_function_of_one_sample():
    reward = each(lambda sample: len(sample.ids) > 2)
    assert reward(SAMPLES) == [1.0, 0.0]


def test_a_users_function_of_one_sample(file):
    assert from_file(f"{file}:funny")(SAMPLES) == [30.0, 20.0]


def test_a_users_batched_function(file):
    assert from_file(f"{file}:together")(SAMPLES) == [[0.5] * 3, [0.5] * 2]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nowhere.py:funny", r"nowhere\.py:funny: no such file; write it as my_rewards\.py:function"),
        ("{file}:serious", "has no function 'serious'"),
        ("{file}:NUMBER", "has no function 'NUMBER'"),
        ("{file}", "my_rewards.py:function"),
        (":funny", "no such file"),
    ],
)
def test_a_users_mistake_is_named(file, where, message):
    with pytest.raises(UserError, match=message):
        from_file(where.format(file=file))


def test_words_become_weighted_rewards(file):
    found = named([f"{file}:funny", "0.25*well-formed", "-2*subject"], "cat")
    assert [weight for weight, _ in found.values()] == [1.0, 0.25, -2.0]
    assert list(found) == [f"{file}:funny", "well-formed", "subject"]
    assert found[f"{file}:funny"][1](SAMPLES) == [30.0, 20.0]


def test_an_unknown_reward_lists_the_known():
    with pytest.raises(UserError, match=r"--reward funny: no such reward; there are .*subject.*well-formed"):
        named(["funny"], "cat")
    with pytest.raises(UserError, match="weight 'much' is not a number"):
        named(["much*subject"], "cat")
    with pytest.raises(UserError, match="--reward is empty"):
        named([], "cat")


def test_similarity_is_the_cosine_to_the_text():
    vectors = {"cat": [1.0, 0.0], "a": [0.6, 0.8], "b": [0.0, 1.0]}
    samples = samples_of([[1], [2]])
    samples[0].text, samples[1].text = "a", "b"
    reward = similarity("cat", lambda texts: np.array([vectors[text] for text in texts]))
    assert reward(samples) == pytest.approx([0.6, 0.0])
    samples[0].prompt = Prompt((), {"kind": "b"})  # the animal that was asked for
    assert reward(samples) == pytest.approx([0.8, 0.0])


def test_subject_and_well_formed_read_the_story():
    """subject looks for its own kind or the one that the prompt asked for; a story that was cut is ill formed."""
    story = next(iter(stories(1, seed=0)))
    told, cut = samples_of([[1], [1]], finish=["stop", "length"])
    told.text = cut.text = story.text
    other = "dog" if story.kind != "dog" else "cat"
    assert subject(story.kind)([told]) == [1.0]
    assert subject(other)([told]) == [0.0]
    assert REWARDS["well-formed"]("", nullcontext)([told, cut]) == [1.0, 0.0]
    told.prompt = Prompt((Message("user", f"Tell a story about a {other}."),))
    asked = REWARDS["utility"]("", nullcontext)([told])[0]
    told.prompt = Prompt((Message("user", f"Tell a story about a {story.kind}."),))
    assert REWARDS["utility"]("", nullcontext)([told])[0] == pytest.approx(asked + SHARED.asked)
    told.prompt = Prompt((), {"kind": other})
    assert subject(story.kind)([told]) == [0.0]
    cut.prompt = Prompt((), {"kind": story.kind})
    assert subject(other)([cut]) == [1.0]
