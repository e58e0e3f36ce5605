"""Best-of-n and pass@k against everything enumerated (pitfall 45)."""

import math
from itertools import product

import pytest

from pronk.evals.passk import best_of_n_kl, pass_at_k, pass_rate, share

POLICY = {"a": 0.5, "b": 0.25, "c": 0.15, "d": 0.1}  # answers and their probabilities
SCORES = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 4.0}
RIGHT = {"b", "d"}


def probability(answers):
    return math.prod(POLICY[answer] for answer in answers)


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_pass_at_k_is_unbiased(n):
    """Over all n-tuples that the policy may draw, its mean is the true chance; the plug-in's is below."""
    chance = sum(POLICY[answer] for answer in RIGHT)
    for k in range(1, n + 1):
        draws = [(probability(t), sum(a in RIGHT for a in t)) for t in product(POLICY, repeat=n)]
        mean = sum(p * pass_at_k(n, right, k) for p, right in draws)
        truth = 1 - (1 - chance) ** k
        assert mean == pytest.approx(truth, abs=1e-12)
        plugged = sum(p * (1 - (1 - right / n) ** k) for p, right in draws)
        assert plugged < truth - 1e-4 or k == 1


def test_pass_at_k_at_its_ends():
    assert pass_at_k(16, 0, 16) == 0.0
    assert pass_at_k(16, 1, 16) == 1.0
    assert pass_at_k(16, 4, 1) == 0.25
    assert pass_at_k(16, 16, 1) == 1.0
    for wrong in ((4, 5, 1), (4, 2, 0), (4, 2, 5)):
        with pytest.raises(ValueError):
            pass_at_k(*wrong)


def best_of(n, scores):
    """The distribution of the best of n draws, ties broken evenly: every tuple counted."""
    found = dict.fromkeys(POLICY, 0.0)
    for drawn in product(POLICY, repeat=n):
        top = max(scores[a] for a in drawn)
        winners = [a for a in drawn if scores[a] == top]
        for a in winners:
            found[a] += probability(drawn) / len(winners)
    return found


def divergence(p, q):
    return sum(p[a] * math.log(p[a] / q[a]) for a in p if p[a])


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_best_of_n_strays_no_further_than_the_formula(n):
    for scores in (SCORES, dict.fromkeys(POLICY, 0.0), {a: float(a in RIGHT) for a in POLICY}):
        assert divergence(best_of(n, scores), POLICY) <= best_of_n_kl(n) + 1e-12
    assert divergence(best_of(n, dict.fromkeys(POLICY, 0.0)), POLICY) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_the_formula_is_reached_where_answers_are_many(n):
    """Of M equally likely answers with different scores, the best of n is the i-th with (i/M)^n - ((i-1)/M)^n."""
    many = 20_000
    best = [((i + 1) / many) ** n - (i / many) ** n for i in range(many)]
    assert sum(p * math.log(p * many) for p in best if p) == pytest.approx(best_of_n_kl(n), abs=1e-3)


def test_intervals_hold_the_mean_and_stay_inside():
    for values in ([0.0] * 20, [1.0] * 20, [0, 1] * 10, [0.5] * 7, [0.2, 0.4, 0.3]):
        found = share(values)
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.high > found.low
    assert share([1.0] * 20).low == pytest.approx(20 / (20 + 1.96**2), rel=1e-4)
    half = share([0, 1] * 50)
    assert (half.low, half.high) == pytest.approx((0.4038, 0.5962), abs=2e-3)  # Wilson's, of 50 in 100


def test_prompts_that_agree_say_more_than_their_number():
    """Sixteen answers that are each right half the time pin a prompt's rate better than one coin does."""
    steady, coins = pass_rate(16, [7, 8, 9, 8] * 5, 1), pass_rate(16, [0, 16] * 10, 1)
    assert steady.value == coins.value == 0.5
    assert steady.high - steady.low < 0.3 * (coins.high - coins.low)
