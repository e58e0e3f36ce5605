"""What tells how a round went, as plain numbers; docs/metrics.md says what each means and when it is healthy."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pronk.data.records import Sample
from pronk.rl.advantages import group_deviation, masked_mean
from pronk.rl.kl import estimate

SAME = 1e-6  # rewards nearer than this are one reward


def of_round(
    rewards: Tensor,
    shaped: Tensor,
    gap: Tensor,
    values: Tensor,
    returns: Tensor,
    advantages: Tensor,
    mask: Tensor,
    prompts: Tensor,
) -> dict[str, float]:
    """Of tensors [B, T] (prompts [B]). shaped: the rewards with what KL takes off; gap: log policy - log reference.

    KL in nats: k1 per sequence, k1, k2 and k3 per token.
    """
    scores = rewards.sum(1)
    mean = masked_mean(returns, mask)
    return floats(
        {
            "reward/mean": scores.mean(),
            "reward/std": scores.std(correction=0),
            "reward/var": scores.var(correction=0),
            "reward/total": shaped.sum(1).mean(),
            "groups/flat": flat_share(scores, prompts),
            "kl/sequence": gap.sum(1).mean(),
            "kl/token": masked_mean(gap, mask),
            "kl/k2": masked_mean(estimate(gap, "k2"), mask),
            "kl/k3": masked_mean(estimate(gap, "k3"), mask),
            "returns/mean": mean,
            "returns/var": masked_mean((returns - mean) ** 2, mask),
            "advantages/mean": masked_mean(advantages, mask),
            "advantages/var": masked_mean(advantages**2, mask) - masked_mean(advantages, mask) ** 2,
        }
    )


def flat_share(scores: Tensor, prompts: Tensor) -> Tensor:
    """The share of rows whose prompt's answers all earned the same; a prompt's only answer has nothing to differ from,
    and is no such row."""
    several = (prompts[:, None] == prompts[None, :]).sum(1) > 1
    return ((group_deviation(scores, prompts) < SAME) & several).float().mean()


def of_values(values: Tensor, returns: Tensor, mask: Tensor) -> dict[str, float]:
    """Of the critic at sampling time: mean, variance, and the share of the returns' variance that it explains."""
    mean = masked_mean(values, mask)
    spread = masked_mean((returns - masked_mean(returns, mask)) ** 2, mask)
    missed = masked_mean((returns - values) ** 2, mask)
    return floats(
        {
            "value/mean": mean,
            "value/var": masked_mean((values - mean) ** 2, mask),
            "value/explained": 1 - missed / spread.clamp(min=1e-8),
        }
    )


def of_answers(samples: list[Sample]) -> dict[str, float]:
    """The share that ended by itself, and the mean and longest length, in tokens."""
    finished, lengths = sum(sample.finish == "stop" for sample in samples), [len(sample.ids) for sample in samples]
    return {
        "finished": finished / len(samples),
        "length": sum(lengths) / len(lengths),
        "length/max": float(max(lengths)),
    }


def floats(found: Mapping[str, Tensor]) -> dict[str, float]:
    """One copy from the device for all of them."""
    return dict(zip(found, torch.stack([value.float() for value in found.values()]).tolist()))


def prompt_numbers(samples: list[Sample]) -> Tensor:
    """Which prompt each sample answers, by the prompt itself and not by its place: [B]."""
    numbers: dict[int, int] = {}
    return torch.tensor([numbers.setdefault(id(sample.prompt), len(numbers)) for sample in samples])
