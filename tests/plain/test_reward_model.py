"""Learner.step with bradley_terry is the plain loop of reward_model.py, three updates to 1e-6."""

import pytest
import torch
from learn.toys import FAMILIES, copy_of, gap, model, rows, weights

from pronk.commands.reward import centre
from pronk.data.collate import pad_scored
from pronk.learn.learner import Learner
from pronk.learn.losses import bradley_terry
from pronk.learn.optim import OptimConfig
from pronk.models.build import to_scorer

from . import reward_model as plain

CONFIG = OptimConfig(lr=0.001, warmup=0, schedule="constant", weight_decay=0.0, clip=0.4, eps=1e-5)
STRENGTHS = [1, 4, 0, 2]


def scorer(family):
    made = to_scorer(model(family))
    torch.manual_seed(2)
    torch.nn.init.normal_(made.value.weight, std=0.3)
    made.value.bias.requires_grad_(False)
    return made


def comparisons(seed):
    """(chosen, rejected, strength), conversations of unequal lengths."""
    return list(zip(rows((7, 3, 9, 1), seed), rows((4, 8, 9, 6), seed + 10), STRENGTHS))


def collated(batch):
    pairs = pad_scored([(chosen, rejected) for chosen, rejected, _ in batch], pad=0)
    pairs.strength = torch.tensor([strength for *_, strength in batch])
    return pairs


@pytest.mark.parametrize("margin", [0.0, 0.7])
@pytest.mark.parametrize("family", FAMILIES)
def test_three_updates_equal_the_plain_loop(family, margin):
    ours = scorer(family)
    theirs = copy_of(ours)
    batches = [comparisons(seed) for seed in range(3)]
    learner = Learner(ours, CONFIG, steps=3, micro_batch=3)
    found = [learner.step(collated(batch), bradley_terry(margin)) for batch in batches]
    losses, accuracies, norms = plain.train(
        lambda tokens: theirs(tokens).values,
        [p for p in theirs.parameters() if p.requires_grad],
        batches,
        margin=margin,
        rate=0.001,
        limit=0.4,
        betas=(0.9, 0.95),
        eps=1e-5,
    )
    assert min(norms) > 0.4  # the clip is at work
    assert [m["loss"] for m in found] == pytest.approx(losses, abs=1e-6)
    assert [m["accuracy"] for m in found] == pytest.approx(accuracies)
    assert [m["grad_norm"] for m in found] == pytest.approx(norms, rel=1e-5)
    assert gap(weights(ours), weights(theirs)) < 1e-6
    shift = plain.centre(lambda tokens: theirs(tokens).values, rows((5, 9, 2)))
    assert centre(ours, rows((5, 9, 2))) == pytest.approx(shift, abs=1e-5)
