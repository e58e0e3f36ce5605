"""How the models stand: Bradley-Terry strengths with ties and intervals, and who beat whom how often; pure numbers."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Z = 1.959964  # of a 95 % interval
PRIOR = 3.0  # deviation of a strength before any vote: so wide that ten votes outweigh it, and nobody gets to infinity

Floats = NDArray[np.float64]


class Verdict(NamedTuple):
    """One vote as the statistics see it."""

    first: str  # the models
    second: str
    outcome: float  # 1 the first is better, 0 the second, 1/2 neither (a tie, or both bad)


class Standing(NamedTuple):
    model: str
    strength: float  # log-odds of beating a model of average strength, ties apart
    low: float
    high: float
    votes: int


class Duel(NamedTuple):
    """One model against another."""

    model: str
    other: str
    rate: float  # wins, and half of the ties, among the votes
    low: float
    high: float
    votes: int


def standings(verdicts: Iterable[Verdict]) -> list[Standing]:
    """Strengths by maximum likelihood, the best first, with 95 % intervals from the curvature.

    Davidson's form of Bradley-Terry (J. Am. Stat. Assoc. 65, 1970): with odds p = exp(strength),
    P(i beats j) = p_i / (p_i + p_j + v sqrt(p_i p_j)), P(tie) = v sqrt(p_i p_j) / (the same).
    A wide normal prior keeps a model that always won finite. Strengths sum to zero.
    """
    played = [v for v in verdicts if v.first != v.second]
    models = sorted({name for v in played for name in (v.first, v.second)})
    if len(models) < 2:
        return []
    place = {name: i for i, name in enumerate(models)}
    table = np.zeros((3, len(models), len(models)))  # wins of i over j, ties, and (unused) the other way
    for v in played:
        i, j = place[v.first], place[v.second]
        if v.outcome == 0.5:
            table[1, i, j] += 1
        else:
            table[0, i if v.outcome else j, j if v.outcome else i] += 1
    strength, covariance = fit(table[0], table[1])
    deviation = np.sqrt(np.diag(covariance))
    votes = Counter(name for v in played for name in (v.first, v.second))
    found = [
        Standing(name, float(s), float(s - Z * d), float(s + Z * d), votes[name])
        for name, s, d in zip(models, strength, deviation)
    ]
    return sorted(found, key=lambda one: -one.strength)


def fit(wins: Floats, ties: Floats) -> tuple[Floats, Floats]:
    """Strengths [M], centred, and their covariance [M, M], by Newton's method; wins[i, j] of i over j, ties either way.

    The unknowns are the strengths and log v, the tendency to ties; the log-posterior is concave in them.
    """
    M = len(wins)
    unknown = np.zeros(M + 1)
    for _ in range(100):
        gradient, curvature = slopes(unknown, wins, ties)
        step = np.linalg.solve(curvature, gradient)
        unknown += step * min(1.0, 2.0 / max(1e-12, float(np.abs(step).max())))  # far away, Newton may overshoot
        if np.abs(step).max() < 1e-10:
            break
    covariance = np.linalg.inv(slopes(unknown, wins, ties)[1])[:M, :M]
    centre = np.eye(M) - 1 / M
    return centre @ unknown[:M], centre @ covariance @ centre.T


def slopes(unknown: Floats, wins: Floats, ties: Floats) -> tuple[Floats, Floats]:
    """Gradient [M + 1] and negative curvature [M + 1, M + 1] of the log-posterior."""
    M = len(wins)
    gradient, curvature = -unknown / PRIOR**2, np.eye(M + 1) / PRIOR**2
    for i in range(M):
        for j in range(i + 1, M):
            counts = np.array([wins[i, j], wins[j, i], ties[i, j] + ties[j, i]])
            if counts.sum():
                rows = np.zeros((3, M + 1))  # each outcome's logit as a row of weights of the unknowns
                rows[0, i] = rows[1, j] = rows[2, M] = 1.0
                rows[2, i] = rows[2, j] = 0.5
                logits = rows @ unknown
                chance = np.exp(logits - logits.max())
                chance /= chance.sum()
                mean = chance @ rows
                gradient = gradient + counts @ rows - counts.sum() * mean
                spread = (rows - mean).T @ (chance[:, None] * (rows - mean))
                curvature = curvature + counts.sum() * spread
    return gradient, curvature


def duels(verdicts: Iterable[Verdict]) -> list[Duel]:
    """Each pair of models once, the winner first; ties count half for both."""
    points: Counter[tuple[str, str]] = Counter()
    votes: Counter[tuple[str, str]] = Counter()
    for first, second, outcome in verdicts:
        if first != second:
            points[first, second] += outcome  # type: ignore[assignment]
            points[second, first] += 1 - outcome  # type: ignore[assignment]
            votes[first, second] += 1
            votes[second, first] += 1
    found = []
    for pair in sorted(votes):
        rate = points[pair] / votes[pair]
        if rate > 0.5 or (rate == 0.5 and pair[0] < pair[1]):
            found.append(Duel(*pair, rate, *wilson(rate, votes[pair]), votes[pair]))
    return found


def wilson(rate: float, n: float) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson, 1927): sensible near 0 and 1. Half points make it a little wide."""
    if n <= 0:
        return 0.0, 1.0
    centre = (rate + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(rate * (1 - rate) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def as_rows(found: Sequence[Any]) -> list[dict[str, Any]]:
    return [one._asdict() for one in found]
