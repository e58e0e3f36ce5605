"""Word copying: words of both sides differ, the grade asks for the whole word, the reward counts leading letters."""

import pytest

from pronk.data.records import Message, Prompt, Sample
from pronk.errors import UserError
from pronk.rl.rewards import REWARDS
from pronk.tasks.copying import LONGEST, Copying

TASK = Copying()
WORD = Prompt((Message("user", "cat"),), {"answer": "cat"})


def said(ids, finish="stop", text=""):
    """An answer to begin, user, c, a, t, assistant as ids 90, 91, 1, 2, 3, 92; 99 ends it."""
    return Sample(WORD, text, [90, 91, 1, 2, 3, 92], ids, [0.0] * len(ids), finish)


def test_words_are_different_short_and_of_one_side():
    train, test = TASK.prompts("train", 3000), TASK.prompts("test", 300)
    words = [[p.messages[0].content for p in side] for side in (train, test)]
    assert all(len(set(side)) == len(side) for side in words)
    assert not set(words[0]) & set(words[1])
    assert all(1 <= len(w) <= LONGEST and w.isalpha() and w.islower() for side in words for w in side)
    assert {len(w) for w in words[0]} >= set(range(2, LONGEST + 1))
    assert [p.messages[0].content for p in TASK.prompts("train", 50)] == words[0][:50]
    assert [p.messages[0].content for p in TASK.prompts("train", 50, seed=1)] != words[0][:50]
    with pytest.raises(UserError, match="no levels"):
        TASK.prompts("train", 1, levels=("easy",))


def test_the_grade_wants_the_whole_word_and_its_end():
    assert TASK.worked(WORD).messages[-1] == Message("assistant", "cat")
    assert TASK.grade(said([1, 2, 3, 99], text="cat")) == 1
    assert TASK.grade(said([1, 2, 3], "length", text="cat")) == 0
    assert TASK.grade(said([1, 2, 99], text="ca")) == 0


@pytest.mark.parametrize(
    ("ids", "finish", "wanted"),
    [
        ([1, 2, 3, 99], "stop", [1, 1, 1, 1]),
        ([1, 2, 99], "stop", [1, 1, 0]),
        ([1, 5, 3, 99], "stop", [1, 0, None, None]),
        ([5, 2, 3, 99], "stop", [0, None, None, None]),
        ([1, 2, 3, 3, 3], "length", [1, 1, 1, 0, None]),
        ([99], "stop", [0]),
        ([1, 2, 3], "length", [1, 1, 1]),
    ],
)
def test_each_leading_letter_that_is_right_is_worth_one(ids, finish, wanted):
    """What follows the first wrong one is not judged."""
    assert list(REWARDS["copied"]("", None)([said(ids, finish)])) == [wanted]
