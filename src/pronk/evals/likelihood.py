"""How well a model predicts held-out text: mean loss over shards."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from pronk.data.batch import IGNORE, Batch
from pronk.models.build import eager
from pronk.models.heads import Output
from pronk.models.logps import cross_entropy


@torch.no_grad()
def mean_loss(
    model: nn.Module, batches: Iterable[Batch], compute: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> float:
    """Mean negative log-likelihood of all targets, nats per token; dropout off."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for batch in batches:
        batch = batch.map(lambda x: x.to(device))
        with eager(model), compute():
            output: Output = model(**batch.inputs())
            total += float(cross_entropy(output, batch.targets)[0])
        count += int((batch.targets != IGNORE).sum())
    model.train(was_training)
    return total / max(1, count)
