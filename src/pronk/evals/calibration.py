"""How sure one may be: intervals of shares, and whether stated chances come true; what is measured is the caller's."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pronk.evals.plots import curve

BINS = 10


def bootstrap(
    values: Sequence[float], groups: Sequence[Hashable], rounds: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the values' mean when whole groups are drawn anew (Efron 1979, by clusters): values of one
    group, such as the comparisons of one prompt, tell less than as many independent ones."""
    numbers = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    if not numbers:
        return math.nan, math.nan
    place = np.array([numbers[group] for group in groups])
    sums, sizes = np.bincount(place, np.array(values, float)), np.bincount(place)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(rounds, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / sizes[drawn].sum(1), (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True)
class Bin:
    """Predictions of about the same confidence: its mean, the share that came true, and how many there are."""

    confidence: float
    right: float
    count: int


def bins(differences: Sequence[float], wins: Sequence[float], count: int = BINS) -> list[Bin]:
    """Comparisons in `count` equal steps of confidence from 1/2 to 1; empty ones are left out.

    differences: log-odds that the first answer wins. wins: 1 where it did, 0 where it did not, 1/2 for a tie. Each is
    taken from the side that the model prefers, so the order in which answers are named does not matter.
    """
    chance = 1 / (1 + np.exp(-np.abs(np.array(differences, float))))
    came = np.where(np.array(differences, float) < 0, 1 - np.array(wins, float), np.array(wins, float))
    came = np.where(np.array(differences, float) == 0, 0.5, came)
    place = np.minimum(((chance - 0.5) * 2 * count).astype(int), count - 1)
    chosen = [place == k for k in range(count)]
    return [Bin(float(chance[c].mean()), float(came[c].mean()), int(c.sum())) for c in chosen if c.any()]


def calibration_error(found: Sequence[Bin]) -> float:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017): the mean gap between confidence and what came
    true, weighted by counts. With few comparisons it is above 0 by chance alone."""
    total = sum(one.count for one in found)
    return sum(one.count * abs(one.confidence - one.right) for one in found) / total if total else math.nan


def plot_reliability(path: Path | str, found: Sequence[Bin], title: str = "reliability") -> None:
    """Draws what came true over what was foretold; on the dashed line both are the same."""
    lines = {
        "model": ([one.confidence for one in found], [one.right for one in found]),
        "perfect": ([0.5, 1.0], [0.5, 1.0]),
    }
    curve(path, lines, title, "share that came true", "confidence in the preferred answer")
