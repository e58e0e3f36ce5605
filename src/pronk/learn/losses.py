"""Losses of supervised and preference learning: pure functions (output, batch) -> (sum, count, metrics)."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pronk.data.batch import IGNORE, Batch, Mean, Metrics, Pairs
from pronk.models import logps as head_math
from pronk.models.build import eager
from pronk.models.heads import Output

EVEN = 1e-4  # the reference's log-probabilities come from other batches, and so differ by rounding
PairLoss = Callable[[Output, Pairs], tuple[Tensor, Tensor, Metrics]]


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


def sequence_logps(output: Output, targets: Tensor, dense: bool = False) -> Tensor:
    """Summed log-probability of each row's targets, nats: [B, T] -> [B]. dense: see logps."""
    return head_math.logps(output, targets, dense=dense)[0].sum(-1)


@torch.no_grad()
def reference_logps(
    model: nn.Module,
    batches: Iterable[Pairs],
    compute: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Tensor:
    """Summed log-probability of both answers of all pairs, [N, 2] on the CPU, without gradients; dropout off."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    found = [torch.zeros(0, 2)]
    for batch in batches:
        batch = batch.map(lambda x: x.to(device))
        with eager(model), compute():
            output: Output = model(**batch.inputs())
            found.append(sequence_logps(output, batch.targets.flatten(0, 1)).view(-1, 2).cpu())
    model.train(was_training)
    return torch.cat(found)


def bradley_terry(margin: float = 0.0, smoothing: float = 0.0) -> PairLoss:
    """-log sigma(s_chosen - s_rejected - m), the reward model's loss (Bradley and Terry 1952; Ouyang et al. 2022,
    eq. 1); count = pairs. Scores s are the values at each conversation's last token.

    Ties are comparisons won by halves: half the loss each way, so they pull the two scores together. No tie parameter
    is fitted, unlike Rao and Kupper's (1967) or Davidson's (1970): probabilities are those of a forced choice.
    margin: m = margin x (strength - 1), which drives strong preferences further apart (Llama 2, arXiv 2307.09288,
    eq. 2); differences are then no log-odds any more, so accuracy is meant, not calibration.
    smoothing: the share of labels taken for wrong (see dpo).
    """

    def loss(output: Output, batch: Pairs) -> tuple[Tensor, Tensor, Metrics]:
        assert output.values is not None and batch.last is not None
        scores = output.values.float().gather(1, batch.last.view(-1, 1)).view(-1, 2)
        gap = scores[:, 0] - scores[:, 1]
        demanded = gap - margin * (batch.strength - 1).clamp(min=0) if margin and batch.strength is not None else gap
        losses = _halves(demanded, _wins(batch, smoothing))
        parts = {"loss": losses, "margin": gap, "chosen_score": scores[:, 0], "rejected_score": scores[:, 1]}
        return _summed(losses, gap, parts, batch)

    return loss


def dpo(beta: float = 0.1, form: Literal["dpo", "ipo"] = "dpo", smoothing: float = 0.0) -> PairLoss:
    """Direct preference optimisation; count = pairs. With h = log-ratio(chosen) - log-ratio(rejected), where a
    log-ratio is log policy - log reference of the whole answer, summed over its tokens:

    dpo: -log sigma(beta h) (Rafailov et al. 2023, eq. 7). At the first step policy and reference agree: ln 2.
      With smoothing e, the share of labels taken for wrong: (1-e) of it and e of -log sigma(-beta h)
      (conservative DPO, Mitchell 2023).
    ipo: (h - (p - 1/2) / beta)^2 with p the chance that the chosen is better, 1 - e (Azar et al. 2023, eq. 17, where
      p = 1 and beta is tau); h is a sum over tokens as in the paper, not a mean. First step: 1 / (4 beta^2).

    A tie has p = 1/2 in both: it holds the two log-ratios together.
    """

    def loss(output: Output, batch: Pairs) -> tuple[Tensor, Tensor, Metrics]:
        assert batch.ref_logps is not None
        summed = sequence_logps(output, batch.targets.flatten(0, 1), batch.dense).view(-1, 2)
        change = summed - batch.ref_logps
        gain, wins = beta * change, _wins(batch, smoothing)
        gap = gain[:, 0] - gain[:, 1]
        losses = _halves(gap, wins) if form == "dpo" else ((gap - (wins - 0.5)) / beta) ** 2
        parts = {"loss": losses, "margin": gap, "chosen_reward": gain[:, 0], "rejected_reward": gain[:, 1]}
        parts |= {"chosen_logp": summed[:, 0], "rejected_logp": summed[:, 1], "chosen_change": change[:, 0]}
        return _summed(losses, gap, parts, batch)

    return loss


def _wins(batch: Pairs, smoothing: float) -> Tensor:
    """The chance that each chosen answer is the better one, [B]: 1 - smoothing, and one half for ties."""
    sure = torch.full((len(batch),), 1.0 - smoothing, device=batch.tokens.device)
    return sure if batch.strength is None else torch.where(batch.strength == 0, 0.5, sure)


def _halves(gap: Tensor, wins: Tensor) -> Tensor:
    """Cross-entropy of the labels `wins` under the chances sigma(gap), nats."""
    return -(wins * F.logsigmoid(gap) + (1 - wins) * F.logsigmoid(-gap))


def _summed(losses: Tensor, gap: Tensor, parts: dict[str, Tensor], batch: Pairs) -> tuple[Tensor, Tensor, Metrics]:
    """(sum, pairs, metrics); accuracy counts the pairs that are no ties, gaps of mere rounding as half right."""
    pairs = torch.full((), len(batch), device=gap.device)
    decided = torch.ones_like(gap) if batch.strength is None else (batch.strength != 0).float()
    right = torch.where(gap.abs() < EVEN, 0.5, (gap > 0).float()) * decided
    metrics: Metrics = {name: Mean(value.detach().sum(), pairs) for name, value in parts.items()}
    return losses.sum(), pairs, metrics | {"accuracy": Mean(right.sum(), decided.sum())}
