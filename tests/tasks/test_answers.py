"""The final answer is found where people and models write it, and nowhere else."""

from fractions import Fraction
from pathlib import Path

import pytest

from pronk.data.read import prompts
from pronk.data.records import Prompt, Sample
from pronk.errors import UserError
from pronk.tasks.answers import final, grade, key, number


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3+4=7\n#### 7", 7),
        ("#### 7", 7),
        ("####7", 7),
        ("#### 1,234,567", 1_234_567),
        ("#### $1,200.00 a week.", 1200),
        ("#### -5", -5),
        ("#### − 5", -5),
        ("#### $-5", -5),
        ("#### -$5", -5),
        ("#### 0.50", Fraction(1, 2)),
        ("#### .5", Fraction(1, 2)),
        ("#### 7.", 7),
        ("#### 007", 7),
        ("#### 3 #### 4", 4),
        ("#### 75%", 75),
        ("#### 7 or 8", None),
        ("#### 7 8", None),
        ("7", None),
        ("### 7", None),
        ("####", None),
        ("#### seven", None),
        ("#### ", None),
        ("", None),
        ("The answer is 7", None),
        ("#### 1e9", None),
    ],
)
def test_final_answers(text, found):
    assert final(text) == found


def test_decimals_are_exact():
    assert final("#### 0.1") == Fraction(1, 10)
    assert number("0.30") == number(".3")
    assert number("3 apples") is None


def sample(text, **meta):
    return Sample(Prompt((), meta), text, [], [], [], "stop")


def test_keys_are_numbers_or_worked_answers():
    assert [key({"answer": a}) for a in (85, "85", "85.0", "She has 85.\n#### 85")] == [85] * 4
    assert grade(sample("30+55=85\n#### 85.00", answer="She has 85.\n#### 85")) == 1.0
    assert grade(sample("85", answer="85")) == 0.0
    assert grade(sample("#### 84", answer="85")) == 0.0


@pytest.mark.parametrize("meta", [{}, {"answer": "many"}, {"answer": "#### many"}, {"answer": None}])
def test_a_prompt_without_a_key_is_the_users_to_mend(meta):
    with pytest.raises(UserError, match="answer"):
        grade(sample("#### 85", **meta))


@pytest.mark.parametrize("name", ["train", "test"])
def test_every_answer_of_gsm8k_is_read(name):
    """And graded as right; the same text without its mark as wrong."""
    found = [*Path(__file__).resolve().parents[2].glob(f"../shared/data/gsm8k-{name}.jsonl")]
    if not found:
        pytest.skip("needs ../shared/data/gsm8k-*.jsonl, which this checkout does not have")
    asked = list(prompts(found))
    assert len(asked) > 1000
    for prompt in asked:
        said = prompt.meta["answer"]
        assert grade(Sample(prompt, said, [], [], [], "stop")) == 1.0
        assert grade(Sample(prompt, said.replace("####", ""), [], [], [], "stop")) == 0.0
        assert int(said.rpartition("####")[2].replace(",", "")) == key(prompt.meta)
