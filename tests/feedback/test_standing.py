"""Bradley-Terry with ties: the numbers that closed forms, simulation and symmetry demand."""

import math
import random

import numpy as np
import pytest

from pronk.feedback import standing
from pronk.feedback.standing import Verdict, duels, fit, slopes, standings, wilson


def simulated(strengths, votes, ties, seed=0):
    """Votes drawn from Davidson's model itself."""
    rng, names = random.Random(seed), list(strengths)
    for _ in range(votes):
        one, other = rng.sample(names, 2)
        p, q = math.exp(strengths[one]), math.exp(strengths[other])
        draw = rng.random() * (p + q + ties * math.sqrt(p * q))
        yield Verdict(one, other, 1.0 if draw < p else 0.0 if draw < p + q else 0.5)


def test_two_models_without_ties_stand_apart_by_the_log_odds(monkeypatch):
    monkeypatch.setattr(standing, "PRIOR", 1e6)
    found = standings([Verdict("a", "b", 1.0)] * 75 + [Verdict("a", "b", 0.0)] * 25)
    assert found[0].model == "a"
    assert found[0].strength - found[1].strength == pytest.approx(math.log(3), rel=1e-6)
    assert found[0].strength == pytest.approx(-found[1].strength)
    half = standing.Z * math.sqrt(1 / 75 + 1 / 25) / 2  # of the log-odds, which are twice a centred strength
    assert found[0].high - found[0].strength == pytest.approx(half, rel=1e-3)


def test_ties_leave_the_order_and_narrow_the_gap():
    wins = [Verdict("a", "b", 1.0)] * 30 + [Verdict("a", "b", 0.0)] * 10
    without, having = standings(wins), standings(wins + [Verdict("a", "b", 0.5)] * 40)
    assert having[0].model == "a"
    assert having[0].strength < without[0].strength
    assert having[0].high - having[0].low < without[0].high - without[0].low


def test_simulated_strengths_are_found_within_their_intervals():
    true = {"a": 1.0, "b": 0.2, "c": -0.3, "d": -0.9}
    inside = 0
    for seed in range(25):
        for one in standings(simulated(true, 400, 0.8, seed)):
            inside += one.low <= true[one.model] <= one.high
    assert 0.90 <= inside / 100 <= 1.0


def test_the_slope_is_the_slope():
    rng = np.random.default_rng(0)
    wins, ties = rng.integers(0, 9, (3, 3)).astype(float), rng.integers(0, 5, (3, 3)).astype(float)
    wins, ties = wins - np.diag(np.diag(wins)), np.triu(ties, 1)
    unknown = rng.normal(size=4)

    def log_posterior(u):
        total = -float(u @ u) / 2 / standing.PRIOR**2
        p = np.exp(u[:3])
        for i in range(3):
            for j in range(i + 1, 3):
                tie = math.exp(u[3]) * math.sqrt(p[i] * p[j])
                scale = math.log(p[i] + p[j] + tie)
                total += (
                    wins[i, j] * (u[i] - scale) + wins[j, i] * (u[j] - scale) + ties[i, j] * (math.log(tie) - scale)
                )
        return total

    step = 1e-5
    numeric = [(log_posterior(unknown + step * e) - log_posterior(unknown - step * e)) / 2 / step for e in np.eye(4)]
    gradient, curvature = slopes(unknown, wins, ties)
    assert gradient == pytest.approx(numeric, rel=1e-6)
    columns = [
        (slopes(unknown + step * e, wins, ties)[0] - slopes(unknown - step * e, wins, ties)[0]) for e in np.eye(4)
    ]
    assert -np.array(columns) / 2 / step == pytest.approx(curvature, rel=1e-5)


def test_a_model_that_always_won_stays_finite():
    found = standings([Verdict("a", "b", 1.0)] * 500)
    assert 2 < found[0].strength < 10 and found[0].low > 0
    assert fit(np.zeros((2, 2)), np.zeros((2, 2)))[0] == pytest.approx([0.0, 0.0])


def test_who_plays_first_makes_no_difference():
    votes = list(simulated({"a": 0.5, "b": 0.0, "c": -0.5}, 200, 0.5))
    turned = [Verdict(v.second, v.first, 1 - v.outcome) for v in votes]
    for one, other in zip(standings(votes), standings(turned)):
        assert one.model == other.model and one.strength == pytest.approx(other.strength)


def test_a_model_against_itself_or_alone_has_no_standing():
    assert standings([Verdict("a", "a", 1.0)] * 9) == [] == duels([Verdict("a", "a", 1.0)])
    assert standings([]) == []


def test_duels_count_ties_half_and_name_the_winner_first():
    (one,) = duels([Verdict("a", "b", 0.0)] * 6 + [Verdict("b", "a", 0.0)] * 2 + [Verdict("a", "b", 0.5)] * 2)
    assert (one.model, one.other, one.rate, one.votes) == ("b", "a", 0.7, 10)
    assert (one.low, one.high) == wilson(0.7, 10)


def test_wilson_is_the_textbook_interval():
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(0.0, 0) == (0.0, 1.0)
