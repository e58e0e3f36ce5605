"""Stories as a task: worked answers are right, the sides share nothing, half the prompts are open."""

import pytest

from pronk.data.records import Sample
from pronk.errors import UserError
from pronk.tasks.stories import Stories
from pronk.world.annotators import wish_in
from pronk.world.tell import Wish, held_out

TASK = Stories()


def answered(prompt, text, finish="stop"):
    return Sample(prompt, text, [], [], [], finish)


@pytest.mark.parametrize("split", ["train", "test"])
def test_worked_answers_are_right_and_graded_so(split):
    prompts = TASK.prompts(split, 60, seed=1)
    assert [p.meta["level"] for p in prompts] == ["open", "asked"] * 30
    for prompt in prompts:
        text = TASK.worked(prompt).messages[-1].content
        assert TASK.worked(prompt).messages[-1].content == text
        assert TASK.grade(answered(prompt, text)) == 1.0
        assert TASK.grade(answered(prompt, text, "length")) == 0.0
        assert TASK.grade(answered(prompt, text.rsplit(". ", 1)[0])) == 0.0
        assert (prompt.meta["kind"] is None) == (prompt.meta["level"] == "open")
    asked = next(p for p in prompts if p.meta["kind"])
    other = next(p for p in prompts if p.meta["kind"] not in (None, asked.meta["kind"]))
    assert TASK.grade(answered(asked, TASK.worked(other).messages[-1].content)) == 0.0


def test_the_sides_share_no_combination_and_no_wording():
    train, test = TASK.prompts("train", 600), TASK.prompts("test", 200)
    assert not {p.messages[0].content for p in train} & {p.messages[0].content for p in test}
    assert all(held_out(wish_in(p.messages[0].content)) for p in test if p.meta["kind"])
    for prompt in train[:100]:
        told = TASK.worked(prompt).messages[-1].content
        assert not held_out(wish_in(prompt.messages[0].content)), told
    assert TASK.prompts("train", 20) == TASK.prompts("train", 20)
    assert TASK.prompts("train", 20, seed=1) != TASK.prompts("train", 20)


def test_levels_are_chosen_by_name():
    assert {wish_in(p.messages[0].content) for p in TASK.prompts("train", 20, levels=("open",))} == {Wish()}
    with pytest.raises(UserError, match=r"stories has no level 'hard'"):
        TASK.prompts("train", 5, levels=("hard",))
