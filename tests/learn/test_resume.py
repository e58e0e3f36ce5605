"""N + M steps = N steps, saved to files, loaded into fresh objects, M steps: bit for bit (pitfall 39)."""

import dataclasses
import random

import pytest
import torch

from pronk.learn import checkpoint
from pronk.learn.fit import Every, fit
from pronk.learn.learner import Learner
from pronk.learn.losses import cross_entropy
from pronk.learn.optim import OptimConfig

from .toys import FAMILIES, copy_of, model, text

CONFIG = OptimConfig(lr=0.01, warmup=2, weight_decay=0.1, clip=0.5)
N, M = 5, 6


class Stream:
    """Endless batches, each a pure function of a cursor, shuffled by Python's generator (so that it matters, too)."""

    border = True

    def __init__(self):
        self.at = 0

    def __iter__(self):
        while True:
            self.at += 1
            batch = text(seed=self.at)
            order = random.sample(range(len(batch)), len(batch))
            yield batch.map(lambda x, order=order: x[order])

    def tell(self, metrics):
        pass

    def state(self):
        return {"at": self.at}

    def restore(self, state):
        self.at = state["at"]


def fresh(family, config, start):
    """Objects of a new process: other weights, other generators."""
    torch.manual_seed(start)
    random.seed(start)
    return Learner(model(family, seed=start, dropout=0.2), config, N + M, micro_batch=3, spike=6.0), Stream()


def train(learner, source, until):
    """Train up to step `until`; returns every step's metrics."""
    told = []

    def hear(step, metrics):
        told.append(metrics)
        return step == until

    fit(learner, source, cross_entropy, [Every(1, hear)])
    return told


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("family", FAMILIES)
def test_training_resumes_bit_identically(tmp_path, family, optimizer):
    """Dropout is on, so the random numbers must go on as well."""
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    learner, source = fresh(family, config, 0)
    train(learner, source, N)
    tensors, plain = learner.state()
    checkpoint.save(tmp_path, N, tensors, {"learner": plain, "source": source.state()})
    wanted = train(learner, source, N + M)
    final = learner.state()
    final = ({k: v.clone() for k, v in final[0].items()}, final[1])

    learner, source = fresh(family, config, 1)
    _, tensors, plain, messages = checkpoint.load_newest(tmp_path)
    learner.restore(tensors, plain["learner"])
    source.restore(plain["source"])
    found = train(learner, source, N + M)
    assert messages == []
    assert len(found) == M
    assert found == wanted
    again = learner.state()
    assert again[1] == final[1]
    assert again[0].keys() == final[0].keys()
    assert [n for n in final[0] if not torch.equal(again[0][n], final[0][n])] == []


def test_the_random_numbers_matter_here():
    """The proof above would be empty if dropout or shuffling were off."""
    learner, source = fresh("decoder", CONFIG, 0)
    first = train(learner, source, 2)
    learner, source = fresh("decoder", CONFIG, 0)
    torch.manual_seed(7)
    assert train(learner, source, 2) != first


def test_optimizer_state_is_part_of_what_is_saved():
    """Left out, training goes on otherwise."""
    learner, source = fresh("decoder", CONFIG, 0)
    train(learner, source, N)
    tensors, plain = learner.state()
    tensors = {k: v.clone() for k, v in tensors.items()}
    wanted = train(learner, source, N + 1)
    for drop in ("exp_avg_sq", ".step", "exp_avg"):
        other, source = fresh("decoder", CONFIG, 1)
        kept = {k: v for k, v in tensors.items() if not k.endswith(drop)}
        assert len(kept) < len(tensors)
        source.at = N
        try:
            other.restore(kept, plain)
            found = train(other, source, N + 2)
        except (KeyError, RuntimeError):
            continue
        assert found[-1]["loss"] != wanted[-1]["loss"]


def test_state_does_not_depend_on_where_it_was_made():
    """Two learners with the same weights and steps have the same state; names carry no trace of torch.compile."""
    learner, source = fresh("lstm", CONFIG, 0)
    train(learner, source, 2)
    other = Learner(copy_of(learner.model), CONFIG, N + M)
    other.restore(*learner.state())
    assert other.state()[0].keys() == learner.state()[0].keys()
    assert not any("_orig_mod" in name for name in learner.state()[0])
