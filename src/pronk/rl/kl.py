"""How far the policy is from its reference: estimators (Schulman, joschu.net/blog/kl-approx.html) and the controller.

With x sampled from the policy and gap = log p(x) - log q(x): k1 = gap, k2 = gap^2 / 2, k3 = exp(-gap) - 1 + gap. All
three estimate KL(p, q), k2 with a small bias. As a *loss*, k1 has no expected gradient and k3 has a biased one; the
gradient of k2 is that of KL(p, q), and so is that of k1 times the ratio of new to old probability, which holds off
policy too. As a *reward*, k1 (detached) is exact.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pronk.errors import UserError


@dataclass(frozen=True)
class KLConfig:
    """What holds the policy near the reference."""

    coef: float = 0.05
    """nats to reward units; 0 = no reference is needed"""
    where: Literal["own", "reward", "loss"] = "own"
    """in the reward of each token (k1, detached), or in the loss; own = where the algorithm has it (grpo: loss)"""
    estimator: Literal["k1", "k2", "k3"] = "k2"
    """in the loss: k2 and k1 (times the ratio) have the gradient of the true KL, k3 is GRPO's (biased)"""
    adaptive: bool = False
    """move coef so that KL stays near target (Ziegler et al. 2019)"""
    target: float = 6.0
    """nats per sequence"""
    horizon: int = 10_000
    """sequences over which coef may change by about 20 %"""

    def __post_init__(self) -> None:
        if self.coef < 0:
            raise UserError(f"--kl.coef is {self.coef}: give 0 (off) or a positive number")
        if self.adaptive and not self.coef:
            raise UserError("--kl.adaptive has nothing to move at --kl.coef 0: give a positive number to start from")
        if self.adaptive and self.where == "loss":
            raise UserError("--kl.adaptive moves the penalty in the reward: set --kl.where reward")


def estimate(gap: Tensor, estimator: Literal["k1", "k2", "k3"]) -> Tensor:
    """KL per token from gap = log p - log q, same shape, nats."""
    if estimator == "k1":
        return gap
    if estimator == "k2":
        return 0.5 * gap**2
    return (-gap).exp() - 1 + gap


def penalty(new: Tensor, old: Tensor, reference: Tensor, estimator: Literal["k1", "k2", "k3"]) -> Tensor:
    """KL per token as a loss, from log-probabilities of the same shape: k1 carries the ratio, which makes it exact."""
    each = estimate(new - reference, estimator)
    return (new - old).exp() * each if estimator == "k1" else each


def adapted(coef: float, config: KLConfig, kl: float, sequences: int) -> float:
    """The coefficient after `sequences` samples with mean KL `kl` (nats per sequence); moves at most 20 % a horizon."""
    error = max(-0.2, min(0.2, kl / config.target - 1))
    return coef * (1 + error * sequences / config.horizon)
