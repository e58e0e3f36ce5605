"""What rejection sampling keeps and compares, and the distribution that best-of-n makes."""

import math
from itertools import product

import pytest

from pronk.data.records import Message, Prompt, Sample
from pronk.rl.rejection import Scored, best, comparisons, conversation, passing

PROMPT = Prompt((Message("user", "1+1=?"),), {"answer": "2"})


def scored(*rows):
    """Rows of (text, score), or (text, score, finish)."""
    return [Scored(Sample(PROMPT, text, [1], [2], [0.0], *(rest or ["stop"])), score) for text, score, *rest in rows]


def texts(found):
    return [one.sample.text for one in found]


def test_the_best_is_kept_and_the_first_of_equals():
    assert texts(best(scored(("a", 0.1), ("b", 0.9), ("c", 0.9)))) == ["b"]
    assert best(scored(("a", 0.1), ("b", 0.4)), threshold=0.5) == []
    assert best([]) == []


def test_everything_different_that_passes_is_kept_once():
    rows = scored(("a", 1.0), ("b", 0.0), ("a", 1.0), ("c", 2.0))
    assert texts(passing(rows, 1.0)) == ["c", "a"]


def test_answers_that_were_cut_or_are_empty_are_never_kept():
    rows = scored(("cut", 5.0, "length"), ("", 4.0), ("  ", 3.0), ("whole", 1.0))
    assert texts(best(rows)) == texts(passing(rows, 0.0)) == ["whole"]
    assert comparisons(rows) == []


def test_comparisons_begin_with_the_widest_difference_and_need_one():
    rows = scored(("a", 3.0), ("b", 1.0), ("c", 2.0), ("d", 0.0), ("a", 3.0))
    found = [(pair.chosen, pair.rejected) for pair in comparisons(rows, 9)]
    assert found == [("a", "d"), ("a", "b"), ("c", "d"), ("a", "c"), ("c", "b"), ("b", "d")]
    assert len(comparisons(rows, 1)) == 1 and comparisons(rows, 0) == []
    assert comparisons(scored(("a", 1.0), ("b", 1.0)), 9) == []
    assert comparisons(rows, 1)[0].prompt == PROMPT.messages


def test_what_is_tuned_on_is_the_prompt_with_the_answer():
    (one,) = scored(("2", 1.0))
    assert conversation(one.sample).messages == (*PROMPT.messages, Message("assistant", "2"))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_best_of_n_keeps_to_its_kl(n):
    """Every tuple that a policy of three answers may draw, through `best`: KL <= ln n - (n - 1) / n (pitfall 45)."""
    policy, worth = {"a": 0.6, "b": 0.3, "c": 0.1}, {"a": 0.0, "b": 1.0, "c": 2.0}
    kept = dict.fromkeys(policy, 0.0)
    for drawn in product(policy, repeat=n):
        (one,) = best(scored(*((text, worth[text]) for text in drawn)))
        kept[one.sample.text] += math.prod(policy[text] for text in drawn)
    assert sum(kept.values()) == pytest.approx(1)
    kl = sum(p * math.log(p / policy[text]) for text, p in kept.items())
    assert kl <= math.log(n) - (n - 1) / n + 1e-12
    assert kl > 0 or n == 1
