"""Losses of policy gradients: pure functions (output, Rollouts) -> (sum, count, metrics)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pronk.data.batch import IGNORE, Max, Mean, Metric, Metrics, Rollouts
from pronk.models import logps as head_math
from pronk.models.heads import Output
from pronk.rl.kl import KLConfig, estimate

Loss = Callable[[Output, Rollouts], tuple[Tensor, Tensor, Metrics]]


@dataclass(frozen=True)
class ClipConfig:
    """PPO's knobs (Schulman et al. 2017; Huang et al. 2024, arXiv 2403.17031)."""

    ratio: float = 0.2
    """the ratio of new to old probability counts within 1 +- this"""
    value: float = 0.2
    """the new value counts within old +- this; 0 = off"""
    value_coef: float = 0.5
    stop_kl: float = 0.0
    """skip the rest of a round once new and old policy differ by this, nats per token; 0 = off"""


def policy_gradient(temperature: float = 1.0, kl: KLConfig | None = None) -> Loss:
    """REINFORCE: minus advantage times log-probability, summed over tokens; count = sequences."""

    def loss(output: Output, batch: Rollouts) -> tuple[Tensor, Tensor, Metrics]:
        assert batch.advantages is not None
        mask = (batch.targets != IGNORE).float()
        logps, entropy = head_math.logps(output, batch.targets, temperature)
        total = -(batch.advantages * logps * mask).sum()
        metrics: Metrics = {"policy/entropy": Mean(entropy.sum(), mask.sum())}
        count = torch.tensor(len(batch), device=logps.device)
        if kl is not None and kl.where == "loss" and kl.coef:
            penalty, metrics["kl/loss"] = _kl_loss(logps, batch, mask, kl)
            total = total + penalty
        metrics["loss"] = Mean(total.detach(), count)
        return total, count, metrics

    return loss


def clipped_with_value(temperature: float = 1.0, clip: ClipConfig | None = None, kl: KLConfig | None = None) -> Loss:
    """PPO: the worse of clipped and unclipped surrogate, and the worse of clipped and unclipped value error.

    count = tokens. Both parts are means over sampled tokens, the value's weighted by value_coef.
    """
    clip = clip or ClipConfig()

    def loss(output: Output, batch: Rollouts) -> tuple[Tensor, Tensor, Metrics]:
        assert batch.advantages is not None and batch.logps is not None
        mask = (batch.targets != IGNORE).float()
        logps, entropy = head_math.logps(output, batch.targets, temperature)
        policy, metrics = clipped_surrogate(logps, batch.logps, batch.advantages, mask, clip)
        value, value_metrics = clipped_value(output, batch, mask, clip)
        total, count = policy + clip.value_coef * value, mask.sum()
        metrics |= value_metrics | {"policy/entropy": Mean(entropy.sum(), count)}
        if kl is not None and kl.where == "loss" and kl.coef:
            penalty, metrics["kl/loss"] = _kl_loss(logps, batch, mask, kl)
            total = total + penalty
        metrics["loss"] = Mean(total.detach(), count)
        return total, count, metrics

    return loss


def clipped_surrogate(
    logps: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: ClipConfig
) -> tuple[Tensor, Metrics]:
    """Sum over tokens of max(-ratio A, -clamp(ratio) A), and how far new and old policy are apart; all [B, T]."""
    change = (logps - old) * mask
    ratio = change.exp()
    plain, held = -advantages * ratio, -advantages * ratio.clamp(1 - clip.ratio, 1 + clip.ratio)
    total = (torch.maximum(plain, held) * mask).sum()
    with torch.no_grad():
        count = mask.sum()
        moved = estimate(-change, "k3") * mask  # KL(old, new): samples come from old
        metrics: Metrics = {
            "loss/policy": Mean(total.detach(), count),
            "policy/approxkl": Mean((0.5 * change**2).sum(), count),
            "policy/policykl": Mean(-change.sum(), count),
            "policy/clipfrac": Mean(((held > plain) * mask).sum(), count),
            "policy/ratio_mean": Mean((ratio * mask).sum(), count),
            "policy/ratio_max": Max((ratio * mask).max()),
        }
        if clip.stop_kl:
            metrics["stop"] = Mean((moved - clip.stop_kl * mask).sum(), count)
    return total, metrics


def clipped_value(output: Output, batch: Rollouts, mask: Tensor, clip: ClipConfig) -> tuple[Tensor, Metrics]:
    """Half the squared error of values, the worse of clipped and unclipped, summed over tokens."""
    assert output.values is not None and batch.values is not None and batch.returns is not None
    values = output.values.float()
    plain = (values - batch.returns) ** 2
    held = plain
    if clip.value:
        near = torch.minimum(torch.maximum(values, batch.values - clip.value), batch.values + clip.value)
        held = (near - batch.returns) ** 2
    total, count = 0.5 * (torch.maximum(plain, held) * mask).sum(), mask.sum()
    return total, {
        "loss/value": Mean(total.detach(), count),
        "value/error": Mean((plain.detach() * mask).sum(), count),
        "value/clipfrac": Mean(((held > plain) * mask).sum(), count),
        "value/mean": Mean((values.detach() * mask).sum(), count),
    }


def _kl_loss(logps: Tensor, batch: Rollouts, mask: Tensor, kl: KLConfig) -> tuple[Tensor, Metric]:
    assert batch.ref_logps is not None
    each = estimate((logps - batch.ref_logps) * mask, kl.estimator) * mask
    return kl.coef * each.sum(), Mean(each.detach().sum(), mask.sum())
