"""Losses of policy gradients: pure functions (output, Rollouts) -> (sum, count, metrics)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pronk.data.batch import IGNORE, Max, Mean, Metrics, Min, Rollouts
from pronk.models import logps as head_math
from pronk.models.heads import Output
from pronk.rl.kl import KLConfig, estimate, penalty

Loss = Callable[[Output, Rollouts], tuple[Tensor, Tensor, Metrics]]
Aggregate = Literal["tokens", "answers", "sum", "constant"]


@dataclass(frozen=True)
class ClipConfig:
    """PPO's knobs (Schulman et al. 2017; Huang et al. 2024, arXiv 2403.17031)."""

    ratio: float = 0.2
    """the ratio of new to old probability counts down to 1 - this, and up to 1 + this"""
    ratio_high: float = 0.0
    """up to 1 + this instead (clip-higher, DAPO); 0 = the algorithm's own: dapo 0.28, others as ratio"""
    value: float = 0.2
    """the new value counts within old +- this; 0 = off"""
    value_coef: float = 0.5
    stop_kl: float = 0.0
    """skip the rest of a round once new and old policy differ by this, nats per token; 0 = off"""


def policy_gradient(
    temperature: float = 1.0, kl: KLConfig | None = None, aggregate: Aggregate = "sum", entropy: float = 0.0
) -> Loss:
    """REINFORCE: minus advantage times log-probability. entropy: see _kept_open."""

    def loss(output: Output, batch: Rollouts) -> tuple[Tensor, Tensor, Metrics]:
        assert batch.advantages is not None
        mask, logps, spread, metrics = _read(output, batch, temperature)
        weights, count = weigh(mask, aggregate)
        total = -(batch.advantages * logps * weights).sum() + _kept_open(spread, weights, entropy)
        total = total + _kl_loss(logps, logps.detach(), batch, mask, weights, kl, metrics)
        metrics["loss"] = Mean(total.detach(), count)
        return total, count, metrics

    return loss


def clipped(
    temperature: float = 1.0,
    clip: ClipConfig | None = None,
    kl: KLConfig | None = None,
    aggregate: Aggregate = "tokens",
    longest: int = 0,
    critic: bool = False,
    entropy: float = 0.0,
) -> Loss:
    """PPO and GRPO: the worse of clipped and unclipped surrogate for each token (Schulman et al. 2017, eq. 7).

    critic: adds the worse of clipped and unclipped value error, weighted by value_coef. longest: see weigh.
    entropy: see _kept_open.
    """
    clip = clip or ClipConfig()

    def loss(output: Output, batch: Rollouts) -> tuple[Tensor, Tensor, Metrics]:
        assert batch.advantages is not None
        mask, logps, spread, metrics = _read(output, batch, temperature)
        weights, count = weigh(mask, aggregate, longest)
        old = _old(logps, batch)
        total, found = clipped_surrogate(logps, old, batch.advantages, mask, clip, weights)
        total = total + _kept_open(spread, weights, entropy)
        metrics |= found | _drifted(logps, batch, mask, clip)
        if critic:
            value, found = clipped_value(output, batch, mask, clip, weights)
            total, metrics = total + clip.value_coef * value, metrics | found
        total = total + _kl_loss(logps, old, batch, mask, weights, kl, metrics)
        metrics["loss"] = Mean(total.detach(), count)
        return total, count, metrics

    return loss


def clipped_with_value(temperature: float = 1.0, clip: ClipConfig | None = None, kl: KLConfig | None = None) -> Loss:
    """PPO's loss: both parts are means over sampled tokens; count = tokens."""
    return clipped(temperature, clip, kl, critic=True)


def clipped_answers(
    temperature: float = 1.0, clip: ClipConfig | None = None, kl: KLConfig | None = None, entropy: float = 0.0
) -> Loss:
    """RLOO: an answer is one action, its ratio the product of its tokens' (the *sum* of log-ratios, not the mean).

    count = answers. All tokens of an answer carry its advantage (Ahmadian et al. 2024, arXiv 2402.14740).
    """
    clip = clip or ClipConfig()

    def loss(output: Output, batch: Rollouts) -> tuple[Tensor, Tensor, Metrics]:
        assert batch.advantages is not None
        mask, logps, spread, metrics = _read(output, batch, temperature)
        weights, count = weigh(mask, "sum")
        old = _old(logps, batch)
        change = ((logps - old) * mask).sum(1, keepdim=True)  # [B, 1]
        advantages = (batch.advantages * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        answers = mask.amax(1, keepdim=True)
        total, found = clipped_surrogate(change, torch.zeros_like(change), advantages, answers, clip, answers)
        total = total + _kept_open(spread, weights, entropy)
        metrics |= found | _drifted(logps, batch, mask, clip)
        total = total + _kl_loss(logps, old, batch, mask, weights, kl, metrics)
        metrics["loss"] = Mean(total.detach(), count)
        return total, count, metrics

    return loss


def weigh(mask: Tensor, aggregate: Aggregate, longest: int = 0) -> tuple[Tensor, Tensor]:
    """What each token's loss weighs [B, T], and the count that their sum is divided by.

    tokens: mean over the batch's tokens (PPO, DAPO): each token weighs the same, long answers more.
    answers: mean over each answer's tokens, then over answers (GRPO): a token of a long answer weighs less.
    sum: sum over an answer's tokens, mean over answers (REINFORCE, RLOO).
    constant: that sum divided by `longest`, the same for every answer (Dr. GRPO).
    An answer without a learned token does not count.
    """
    if aggregate == "tokens":
        return mask, mask.sum()
    count = mask.amax(1).sum()
    if aggregate == "sum":
        return mask, count
    if aggregate == "answers":
        return mask / mask.sum(1, keepdim=True).clamp(min=1), count
    assert longest > 0, "aggregate 'constant' needs the answers' longest possible length"
    return mask / longest, count


def clipped_surrogate(
    logps: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: ClipConfig, weights: Tensor | None = None
) -> tuple[Tensor, Metrics]:
    """Weighted sum of max(-ratio A, -clamp(ratio) A), with its share of clipped ones; all [B, T]."""
    weights = mask if weights is None else weights
    change = (logps - old) * mask
    ratio = change.exp()
    high = clip.ratio_high or clip.ratio
    plain, held = -advantages * ratio, -advantages * ratio.clamp(1 - clip.ratio, 1 + high)
    total = (torch.maximum(plain, held) * weights).sum()
    return total, {
        "loss/policy": Mean((torch.maximum(plain, held).detach() * mask).sum(), mask.sum()),
        "policy/clipfrac": Mean(((held > plain) * mask).sum(), mask.sum()),
    }


def clipped_value(
    output: Output, batch: Rollouts, mask: Tensor, clip: ClipConfig, weights: Tensor | None = None
) -> tuple[Tensor, Metrics]:
    """Half the squared error of values, the worse of clipped and unclipped, summed by weight over tokens."""
    assert output.values is not None and batch.values is not None and batch.returns is not None
    values = output.values.float()
    plain = (values - batch.returns) ** 2
    held = plain
    if clip.value:
        near = torch.minimum(torch.maximum(values, batch.values - clip.value), batch.values + clip.value)
        held = (near - batch.returns) ** 2
    worse, count = 0.5 * torch.maximum(plain, held), mask.sum()
    return (worse * (mask if weights is None else weights)).sum(), {
        "loss/value": Mean((worse.detach() * mask).sum(), count),
        "value/error": Mean((plain.detach() * mask).sum(), count),
        "value/clipfrac": Mean(((held > plain) * mask).sum(), count),
        "value/predicted": Mean((values.detach() * mask).sum(), count),
    }


def _read(output: Output, batch: Rollouts, temperature: float) -> tuple[Tensor, Tensor, Tensor, Metrics]:
    """(mask, log-probabilities of the sampled tokens, entropy of what they were drawn from; [B, T] each, metrics)."""
    mask = (batch.targets != IGNORE).float()
    logps, entropy = head_math.logps(output, batch.targets, temperature, batch.dense, batch.first)
    return mask, logps, entropy, {"policy/entropy": Mean(entropy.detach().sum(), mask.sum())}


def _kept_open(entropy: Tensor, weights: Tensor, coef: float) -> Tensor | float:
    """The entropy bonus (Schulman et al. 2017, eq. 9), as a loss: each token's entropy by its weight, negative."""
    return -coef * (entropy * weights).sum() if coef else 0.0


def _old(logps: Tensor, batch: Rollouts) -> Tensor:
    """Log-probabilities that the ratio is taken to: on a fresh round they are this very forward's."""
    assert batch.logps is not None
    return logps.detach() if batch.fresh else batch.logps


@torch.no_grad()
def drift(logps: Tensor, sampled: Tensor, mask: Tensor, stop_kl: float = 0.0) -> Metrics:
    """How far this policy and the one that sampled are apart, by token; all [B, T]."""
    change, count = (logps - sampled) * mask, mask.sum()
    ratio, here = change.exp(), mask > 0
    metrics: Metrics = {
        "policy/approxkl": Mean((0.5 * change**2).sum(), count),
        "policy/policykl": Mean(-change.sum(), count),
        "policy/ratio_mean": Mean((ratio * mask).sum(), count),
        "policy/ratio_max": Max(ratio.where(here, 0.0).max()),
        "policy/ratio_min": Min(ratio.where(here, float("inf")).min()),
    }
    if stop_kl:
        moved = estimate(-change, "k3") * mask  # KL(old, new): samples come from old
        metrics["stop"] = Mean((moved - stop_kl * mask).sum(), count)
    return metrics


def _drifted(logps: Tensor, batch: Rollouts, mask: Tensor, clip: ClipConfig) -> Metrics:
    """On a fresh round: how far learner and engine are apart, which is no reason to stop."""
    assert batch.logps is not None
    return drift(logps, batch.logps, mask, 0.0 if batch.fresh else clip.stop_kl)


def _kl_loss(
    logps: Tensor, old: Tensor, batch: Rollouts, mask: Tensor, weights: Tensor, kl: KLConfig | None, metrics: Metrics
) -> Tensor | float:
    """The penalty, where it is in the loss, noted in metrics as a mean over tokens."""
    if kl is None or kl.where != "loss" or not kl.coef:
        return 0.0
    assert batch.ref_logps is not None
    inside = [torch.where(mask > 0, x, 0.0) for x in (logps, old, batch.ref_logps)]
    each = penalty(inside[0], inside[1], inside[2], kl.estimator)
    metrics["kl/loss"] = Mean((each.detach() * mask).sum(), mask.sum())
    return kl.coef * (each * weights).sum()
