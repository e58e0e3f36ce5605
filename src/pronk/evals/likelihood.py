"""How well a model predicts what it has not seen: the mean loss of held-out text, or any loss with its metrics."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pronk.data.batch import Batch, Mean, Metrics
from pronk.learn.losses import cross_entropy
from pronk.models.build import eager
from pronk.models.heads import Output


def mean_loss(
    model: nn.Module, batches: Iterable[Batch], compute: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> float:
    """Mean negative log-likelihood of all targets, nats per token; dropout off."""
    return mean_metrics(model, batches, cross_entropy, compute).get("loss", 0.0)


@torch.no_grad()
def mean_metrics(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[Output, Any], tuple[Tensor, Tensor, Metrics]],
    compute: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, float]:
    """The metrics of a loss (those that are means) over all batches; dropout off."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    totals: dict[str, float] = {}
    weights: dict[str, float] = {}
    for batch in batches:
        batch = batch.map(lambda x: x.to(device))
        with eager(model), compute():
            _, _, metrics = loss(model(**batch.inputs()), batch)
        for name, metric in metrics.items():
            if isinstance(metric, Mean):
                totals[name] = totals.get(name, 0.0) + float(metric.total)
                weights[name] = weights.get(name, 0.0) + float(metric.weight)
    model.train(was_training)
    return {name: total / weights[name] for name, total in totals.items() if weights[name]}
