"""Learner.step with dpo is the plain loop of dpo.py, three updates to 1e-6."""

import math

import pytest
import torch
from learn.toys import FAMILIES, copy_of, gap, logits_of, model, padded, rows, weights

from pronk.data.batch import IGNORE, Pairs
from pronk.learn.learner import Learner
from pronk.learn.losses import dpo, sequence_logps
from pronk.learn.optim import OptimConfig

from . import dpo as plain

CONFIG = OptimConfig(lr=0.001, warmup=0, schedule="constant", weight_decay=0.0, clip=0.1, eps=1e-5)


def comparisons(seed):
    """(prompt, chosen, rejected) of unequal lengths."""
    dealt = zip(rows((3, 1, 5), seed), rows((4, 6, 1), seed + 10), rows((2, 6, 3), seed + 20))
    return [tuple(three) for three in dealt]


def collated(comparisons, reference):
    flat = [(prompt, answer) for prompt, *answers in comparisons for answer in answers]
    tokens = padded([p + a[:-1] for p, a in flat], 0)
    targets = padded([[IGNORE] * (len(p) - 1) + a for p, a in flat], IGNORE)
    with torch.no_grad():
        logps = sequence_logps(reference(tokens), targets).view(-1, 2)
    return Pairs(tokens.view(len(comparisons), 2, -1), targets.view(len(comparisons), 2, -1), ref_logps=logps)


@pytest.mark.parametrize("family", FAMILIES)
def test_three_updates_equal_the_plain_loop(family):
    ours = model(family)
    theirs, reference = copy_of(ours), copy_of(ours)
    batches = [comparisons(seed) for seed in range(3)]
    learner = Learner(ours, CONFIG, steps=3, micro_batch=2)
    found = [learner.step(collated(batch, reference), dpo(0.2)) for batch in batches]
    losses, accuracies, norms = plain.train(
        logits_of(theirs),
        logits_of(reference),
        list(theirs.parameters()),
        batches,
        beta=0.2,
        rate=0.001,
        limit=0.1,
        betas=(0.9, 0.95),
        eps=1e-5,
    )
    assert min(norms) > 0.1  # the clip is at work
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert [m["loss"] for m in found] == pytest.approx(losses, abs=1e-6)
    assert [m["accuracy"] for m in found[1:]] == pytest.approx(accuracies[1:])
    assert [m["grad_norm"] for m in found] == pytest.approx(norms, rel=1e-5)
    assert gap(weights(ours), weights(theirs)) < 1e-6
