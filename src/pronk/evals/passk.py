"""What several samples of one prompt say: unbiased pass@k with intervals, and how far best-of-n strays in KL."""

import math
from collections.abc import Sequence

from pronk.evals.report import Rate, wilson


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that one of k answers is right, estimated from `right` of `samples`, k <= samples.

    1 - C(n - c, k) / C(n, k): the share of all draws of k without a right one, unbiased (Chen et al. 2021, arXiv
    2107.03374, eq. 1). The plug-in 1 - (1 - c/n)^k is too small.
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {right} right ones among {samples}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def pass_rate(samples: int, right: Sequence[int], k: int) -> Rate:
    """Mean pass@k over prompts with `samples` answers each; its interval counts prompts as what was drawn."""
    return share([pass_at_k(samples, one, k) for one in right])


def share(values: Sequence[float]) -> Rate:
    """Mean of numbers in [0, 1], with an interval that stays inside and open where all are equal.

    It is Wilson's, for as many yes-or-no questions as would give this mean this standard error; never fewer than
    there are values, since numbers within [0, 1] vary no more than yes or no.
    """
    size = len(values)
    mean = sum(values) / size
    spread = sum((value - mean) ** 2 for value in values) / max(1, size - 1)
    return wilson(mean, max(size, mean * (1 - mean) * size / spread) if spread else size)


def best_of_n_kl(n: int) -> float:
    """Largest KL, nats, between best-of-n and the policy it draws from: ln n - (n - 1) / n.

    Exact where no two answers score the same (Stiennon et al. 2020, arXiv 2009.01325, appendix G); ties only lower it.
    """
    return math.log(n) - (n - 1) / n
