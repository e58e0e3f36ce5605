"""What several samples of one prompt say: unbiased pass@k with intervals, and how far best-of-n strays in KL."""

import math
from collections.abc import Sequence
from typing import NamedTuple

Z = 1.959964  # of a 95 % interval


class Share(NamedTuple):
    """A mean in [0, 1] and its 95 % interval."""

    mean: float
    low: float
    high: float


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that one of k answers is right, estimated from `right` of `samples`, k <= samples.

    1 - C(n - c, k) / C(n, k): the share of all draws of k without a right one, unbiased (Chen et al. 2021, arXiv
    2107.03374, eq. 1). The plug-in 1 - (1 - c/n)^k is too small.
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {right} right ones among {samples}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def pass_rate(samples: int, right: Sequence[int], k: int) -> Share:
    """Mean pass@k over prompts with `samples` answers each; its interval counts prompts as what was drawn."""
    return share([pass_at_k(samples, one, k) for one in right])


def share(values: Sequence[float]) -> Share:
    """Mean of numbers in [0, 1] with Wilson's interval (1927), which stays inside and open where all are equal.

    Its sample size is the one that a yes-or-no question of this mean and standard error would have; never less than
    the number of values, since numbers within [0, 1] vary no more than yes or no.
    """
    size = len(values)
    mean = sum(values) / size
    spread = sum((value - mean) ** 2 for value in values) / max(1, size - 1)
    n = max(size, mean * (1 - mean) * size / spread) if spread else size
    centre, width = mean + Z * Z / (2 * n), Z * math.sqrt(mean * (1 - mean) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    return Share(mean, max(0.0, (centre - width) / scale), min(1.0, (centre + width) / scale))


def best_of_n_kl(n: int) -> float:
    """Largest KL, nats, between best-of-n and the policy it draws from: ln n - (n - 1) / n.

    Exact where no two answers score the same (Stiennon et al. 2020, arXiv 2009.01325, appendix G); ties only lower it.
    """
    return math.log(n) - (n - 1) / n
