"""Learner.step with cross_entropy is the plain loop of cross_entropy.py, three updates to 1e-6."""

import pytest
import torch
from learn.toys import FAMILIES, copy_of, gap, logits_of, model, text, weights

from pronk.data.batch import IGNORE
from pronk.learn.learner import Learner
from pronk.learn.losses import cross_entropy
from pronk.learn.optim import OptimConfig

from . import cross_entropy as plain

CONFIG = OptimConfig(lr=0.002, warmup=1, final=0.1, weight_decay=0.1, clip=0.7, beta1=0.9, beta2=0.95, eps=1e-5)


def ragged(batch):
    """Rows without their padding, None where nothing is learned."""
    kept = [max(i for i, t in enumerate(row) if t != IGNORE) + 1 for row in batch.targets.tolist()]
    inputs = [row[:n] for row, n in zip(batch.tokens.tolist(), kept)]
    targets = [[None if t == IGNORE else t for t in row[:n]] for row, n in zip(batch.targets.tolist(), kept)]
    return list(zip(inputs, targets))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_three_updates_equal_the_plain_loop(family, tied):
    ours = model(family, tied=tied)
    theirs = copy_of(ours)
    batches = [text(seed=seed) for seed in range(3)]
    learner = Learner(ours, CONFIG, steps=3, micro_batch=3)
    found = [learner.step(batch, cross_entropy) for batch in batches]
    losses, norms, rates = plain.train(
        logits_of(theirs),
        [p for p in theirs.parameters() if p.dim() == 2],
        [p for p in theirs.parameters() if p.dim() == 1],
        [ragged(batch) for batch in batches],
        peak=0.002,
        warmup=1,
        final=0.1,
        steps=3,
        limit=0.7,
        decay=0.1,
        betas=(0.9, 0.95),
        eps=1e-5,
    )
    assert min(norms) > 0.7  # the clip is at work
    assert [m["loss"] for m in found] == pytest.approx(losses, abs=1e-6)
    assert [m["grad_norm"] for m in found] == pytest.approx(norms, rel=1e-5)
    assert [m["lr"] for m in found] == pytest.approx(rates, rel=1e-9)
    assert gap(weights(ours), weights(theirs)) < 1e-6
    assert not torch.equal(ours.embed.weight, model(family, tied=tied).embed.weight)
