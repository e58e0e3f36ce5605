"""From rewards to advantages: pure functions on [B, T] tensors whose mask is 1 on sampled tokens."""

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the masked places; padding never counts."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def whiten(x: Tensor, mask: Tensor, keep_mean: bool = False) -> Tensor:
    """Scale to variance 1 over the masked places, and shift to mean 0 unless keep_mean (rewards keep theirs)."""
    mean = masked_mean(x, mask)
    white = (x - mean) * torch.rsqrt(masked_mean((x - mean) ** 2, mask) + 1e-8)
    return (white + mean if keep_mean else white) * mask


def place_scores(scores: Tensor, mask: Tensor) -> Tensor:
    """Put each row's score [B] on its last sampled token: [B, T]."""
    last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
    return torch.zeros_like(mask).scatter(1, last[:, None], scores[:, None].to(mask.dtype)) * mask


def to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """Sum of this and all later rewards of the row, undiscounted: [B, T]."""
    return (rewards * mask).flip(1).cumsum(1).flip(1) * mask


def reward_to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """REINFORCE (Williams 1992): rewards to go minus their mean over the rows that are alive at the same place.

    A place is counted from where the row's answer begins, whatever its prompt's length. The baseline depends on the
    place only, not on the action, and keeps the sum of later KL penalties from looking like a bad action.
    """
    returns = to_go(rewards, mask)
    places = (mask.cumsum(1) - 1).clamp(min=0).long()
    sums = torch.zeros_like(mask[0]).scatter_add(0, places.flatten(), returns.flatten())
    alive = torch.zeros_like(mask[0]).scatter_add(0, places.flatten(), mask.flatten())
    return (returns - (sums / alive.clamp(min=1))[places]) * mask


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16): (advantages, returns), [B, T] each.

    values[t] belongs to the state in which the token at place t was sampled. The value after the last sampled token
    is 0, also where the answer was cut at its length limit: truncation does not bootstrap.
    """
    advantages, running = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    values = values * mask
    for t in reversed(range(rewards.shape[1])):
        after = values[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(running)
        surprise = rewards[:, t] + gamma * after - values[:, t]
        running = (surprise + gamma * lam * running) * mask[:, t]
        advantages[:, t] = running
    return advantages, (advantages + values) * mask
