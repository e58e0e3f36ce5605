"""Left-rate and agreement, counted by hand."""

import random

import pytest

from pronk.feedback.agree import Ballot, alpha, left_rate, pairwise_agreement, self_agreement


def ballot(person, item, choice, left="first", repeat=False):
    return Ballot(person, item, choice, left, repeat)


def test_the_left_rate_counts_decided_votes_alone():
    votes = [ballot("p", "1", "first"), ballot("p", "2", "second"), ballot("p", "3", "second", left="second")]
    found = left_rate([*votes, ballot("p", "4", "tie"), ballot("p", "5", "bad")])
    assert (found.rate, found.votes) == (pytest.approx(2 / 3), 3)
    assert found.low < 2 / 3 < found.high
    assert left_rate([]).rate is None


def test_people_agree_with_themselves_by_content_whatever_the_side():
    votes = [ballot("p", "1", "first"), ballot("p", "2", "tie"), ballot("q", "1", "second")]
    again = [ballot("p", "1", "first", left="second", repeat=True), ballot("p", "2", "bad", repeat=True)]
    assert self_agreement([*votes, *again])[0::3] == (0.5, 2)
    assert self_agreement([ballot("p", "1", "first", repeat=True)]).votes == 0  # the first was taken back


def test_people_agree_with_one_another_on_shared_pairs():
    votes = [ballot("p", "1", "first"), ballot("q", "1", "first"), ballot("r", "1", "second"), ballot("p", "2", "tie")]
    assert pairwise_agreement(votes)[0::3] == (pytest.approx(1 / 3), 3)


def test_alpha_is_one_for_agreement_near_zero_by_chance_and_krippendorffs_own_example():
    agreed = [ballot(person, str(item), ("first", "second")[item % 2]) for person in "pq" for item in range(20)]
    assert alpha(agreed) == pytest.approx(1.0)
    rng = random.Random(0)
    noise = [
        ballot(person, str(item), rng.choice(("first", "second", "tie"))) for person in "pq" for item in range(600)
    ]
    assert abs(alpha(noise)) < 0.1
    pairs = ["ff", "ff", "fs", "ss", "ss", "sf", "ss", "ff", "fs", "ff"]  # observed 0.3; 11 f and 9 s of 20
    words = {"f": "first", "s": "second"}
    table = [ballot("pq"[i], str(n), words[pair[i]]) for n, pair in enumerate(pairs) for i in range(2)]
    assert alpha(table) == pytest.approx(1 - 0.3 / (2 * 11 * 9 / (20 * 19)))


def test_alpha_has_no_value_where_nothing_can_differ():
    assert alpha([]) is None
    assert alpha([ballot("p", "1", "first"), ballot("p", "2", "second")]) is None  # one person
    assert alpha([ballot("p", "1", "first"), ballot("q", "1", "first")]) is None  # one choice
