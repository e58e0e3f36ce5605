"""From rewards to advantages: pure functions on [B, T] tensors whose mask is 1 on sampled tokens."""

import torch
import torch.nn.functional as F
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


def reward_to_go(rewards: Tensor, mask: Tensor, prompts: Tensor) -> Tensor:
    """REINFORCE (Williams 1992): rewards to go minus the mean return of the prompt's other answers.

    The baseline leaves the row itself out (Kool et al. 2019), so it does not depend on the row's actions; a prompt
    with one answer gets the batch's mean. prompts [B] says which prompt a row answers; rows may stand in any order.
    """
    return (to_go(rewards, mask) - others_mean((rewards * mask).sum(1), prompts)[:, None]) * mask


def whole(rewards: Tensor, mask: Tensor) -> Tensor:
    """The row's whole undiscounted return on each of its tokens: [B, T]."""
    return (rewards * mask).sum(1, keepdim=True) * mask


def leave_one_out(rewards: Tensor, mask: Tensor, prompts: Tensor) -> Tensor:
    """RLOO (Ahmadian et al. 2024): a row's whole return minus the mean of its prompt's others, on each token.

    That is n / (n - 1) times its distance from the mean of the prompt's n answers.
    """
    scores = (rewards * mask).sum(1)
    return (scores - others_mean(scores, prompts))[:, None] * mask


def group_relative(rewards: Tensor, mask: Tensor, prompts: Tensor, scale: bool = True, eps: float = 1e-4) -> Tensor:
    """GRPO (Shao et al. 2024, arXiv 2402.03300): returns minus their prompt's mean, over its standard deviation + eps.

    scale: False leaves the division out (Dr. GRPO, Liu et al. 2025, arXiv 2503.20783). The deviation is that of a
    sample (n - 1). eps decides what rewards count as equal: differences far below it give advantages near 0.
    """
    scores = (rewards * mask).sum(1)
    centred = scores - group_mean(scores, prompts)
    if scale:
        centred = centred / (group_deviation(scores, prompts) + eps)
    return centred[:, None] * mask


def group_mean(scores: Tensor, prompts: Tensor) -> Tensor:
    """For each row, the mean score [B] of its prompt's rows, itself among them."""
    same = (prompts[:, None] == prompts[None, :]).to(scores.dtype)
    return (same * scores).sum(1) / same.sum(1)


def group_deviation(scores: Tensor, prompts: Tensor) -> Tensor:
    """For each row, the standard deviation [B] of its prompt's n scores, with n - 1; 0 where there is one alone."""
    same = (prompts[:, None] == prompts[None, :]).to(scores.dtype)
    squares = same * (scores - group_mean(scores, prompts)) ** 2
    return (squares.sum(1) / (same.sum(1) - 1).clamp(min=1)).sqrt()


def others_mean(scores: Tensor, prompts: Tensor) -> Tensor:
    """For each row, the mean score [B] of the other rows of its prompt; of the whole batch where there are none."""
    same = (prompts[:, None] == prompts[None, :]).to(scores.dtype)
    others = same.sum(1) - 1
    mean = (same @ scores - scores) / others.clamp(min=1)
    return torch.where(others > 0, mean, scores.mean())


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16): (advantages, returns), [B, T] each.

    values[t] belongs to the state in which the token at place t was sampled. The value after the last sampled token
    is 0, also where the answer was cut at its length limit: truncation does not bootstrap.
    """
    values = values * mask
    surprise = (rewards + gamma * _ahead(values, 1) - values) * mask
    advantages = discounted(surprise, gamma * lam * mask)
    return advantages, (advantages + values) * mask


def discounted(x: Tensor, decay: Tensor) -> Tensor:
    """y with y[t] = x[t] + decay[t] y[t + 1], all [B, T]; nothing follows the last place.

    By doubling (Hillis and Steele 1986): after k turns y[t] holds its first 2^k terms, so that a GPU is given a few
    kernels and not some for each place.
    """
    step = 1
    while step < x.shape[1]:
        x, decay = x + decay * _ahead(x, step), decay * _ahead(decay, step)
        step *= 2
    return x


def _ahead(x: Tensor, steps: int) -> Tensor:
    """x [B, T] as seen from so many places before, zeros behind its end."""
    return F.pad(x[:, steps:], (0, steps))
