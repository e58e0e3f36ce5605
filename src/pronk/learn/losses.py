"""Losses of supervised and preference learning: pure functions (output, batch) -> (sum, count, metrics)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pronk.data.batch import IGNORE, Batch, Mean, Metrics, Pairs
from pronk.models import logps as head_math
from pronk.models.heads import Output


def cross_entropy(output: Output, batch: Batch) -> tuple[Tensor, Tensor, Metrics]:
    """Negative log-likelihood of the targets, nats; count = learned tokens; a metric for each source of a mixture."""
    total, losses = head_math.cross_entropy(output, batch.targets, batch.dense)
    keep = batch.targets != IGNORE
    count = keep.sum()
    metrics: Metrics = {"loss": Mean(total.detach(), count)}
    if batch.sources is not None and len(batch.source_names) > 1:
        rows = batch.sources if batch.sources.dim() == 2 else batch.sources[:, None].expand_as(batch.targets)
        learned = torch.where(keep, rows, -1).flatten() if batch.dense else rows[keep]
        for index, name in enumerate(batch.source_names):
            mine = learned == index
            metrics[f"loss/{name}"] = Mean((losses * mine).sum(), mine.sum())
    return total, count, metrics


def sequence_logps(output: Output, targets: Tensor) -> Tensor:
    """Summed log-probability of each row's targets, nats: [B, T] -> [B]."""
    return head_math.logps(output, targets)[0].sum(-1)


def dpo(beta: float = 0.1) -> Callable[[Output, Pairs], tuple[Tensor, Tensor, Metrics]]:
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7); count = pairs.

    At the first step policy and reference agree, so the loss is ln 2.
    """

    def loss(output: Output, batch: Pairs) -> tuple[Tensor, Tensor, Metrics]:
        assert batch.ref_logps is not None
        summed = sequence_logps(output, batch.targets.flatten(0, 1)).view(-1, 2)
        gain = beta * (summed - batch.ref_logps)
        margin = gain[:, 0] - gain[:, 1]
        total, pairs = -F.logsigmoid(margin).sum(), torch.tensor(len(batch), device=margin.device)
        values = {"loss": -F.logsigmoid(margin), "accuracy": (margin > 0).float() + 0.5 * (margin == 0)}
        values |= {"margin": margin, "chosen_reward": gain[:, 0], "rejected_reward": gain[:, 1]}
        values |= {"chosen_logp": summed[:, 0], "rejected_logp": summed[:, 1]}
        return total, pairs, {name: Mean(value.detach().sum(), pairs) for name, value in values.items()}

    return loss
