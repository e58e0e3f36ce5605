"""The judge: what it is asked, which number is read from its reply, and what a reply without one leads to."""

import pytest

from pronk.data.records import Message, Prompt
from pronk.engine.client import Answer
from pronk.errors import UserError
from pronk.rl.judge import RUBRIC, judge, number

from .toys import samples_of


class Saying:
    """A client whose replies are given; keeps what it was asked."""

    def __init__(self, *replies):
        self.replies, self.asked = list(replies), []

    def chat(self, messages, **fields):
        self.asked.append((messages, fields))
        return [Answer(self.replies.pop(0), "stop")]


def told(text):
    (sample,) = samples_of([[1]])
    sample.prompt, sample.text = Prompt((Message("user", "Tell of a cat."),)), text
    return sample


@pytest.mark.parametrize(
    ("said", "wanted"),
    [("7", 7), (" 10.", 10), ("8/10", 8), ("Score: 9", 9), ("I give it a 3, since", 3), ("85", None), ("0", None)]
    + [("7.5", None), ("", None), ("good", None), ("**6**", 6), ("11", None)],
)
def test_the_number_is_read(said, wanted):
    assert number(said) == wanted


def test_the_judge_is_asked_at_temperature_0_with_rubric_prompt_and_answer():
    client = Saying("4", "9")
    assert judge(client, threads=1)([told("Ann saw one."), told("A cat sat.")]) == [4.0, 9.0]
    (system, user), fields = client.asked[0]
    assert system == {"role": "system", "content": RUBRIC}
    assert "user: Tell of a cat." in user["content"] and "<answer>\nAnn saw one.\n</answer>" in user["content"]
    assert fields["temperature"] == 0


def test_a_reply_without_a_number_is_asked_for_again_and_then_told():
    client = Saying("Well, it is good.", "8")
    assert judge(client)([told("x")]) == [8.0]
    assert client.asked[1][0][-1]["content"] == "Only the number."
    with pytest.raises(UserError, match=r"said 'Fine\.', then 'Very fine\.': take a model that follows"):
        judge(Saying("Fine.", "Very fine."))([told("x")])
