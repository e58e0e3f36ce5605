"""RL resumes bit for bit: N + M rounds = N, saved to files, loaded into fresh objects, M (pitfall 39)."""

import dataclasses
import random

import pytest
import torch
from learn.toys import FAMILIES, PLAIN

from pronk.engine.engine import Engine
from pronk.learn import checkpoint
from pronk.learn.fit import Every, fit
from pronk.learn.learner import Learner
from pronk.rl.algorithms import AlgorithmConfig
from pronk.rl.kl import KLConfig
from pronk.rl.losses import ClipConfig

from .toys import actor, copy_of, model, share_of_threes, source_of

ADAPTIVE = KLConfig(coef=0.05, where="reward", adaptive=True, target=0.5, horizon=100)
SETTINGS = AlgorithmConfig(epochs=2, clip=ClipConfig(stop_kl=0.05))
POLICY = dataclasses.replace(PLAIN, lr=0.01, warmup=3, schedule="linear", clip=0.5)
CRITIC = dataclasses.replace(PLAIN, lr=0.005, schedule="cosine", optimizer="muon")
STEPS = {"reinforce": (6, 14), "grpo": (6, 14), "ppo": (8, 24)}  # wanted before the save, and in all


def fresh(family, algorithm, start):
    """Objects of a new process with weights and generators of their own; the reference is the same file."""
    torch.manual_seed(start)
    random.seed(start)
    module = actor(family, seed=start) if algorithm == "ppo" else model(family, seed=start)
    policy = module.policy if algorithm == "ppo" else module
    source = source_of(
        module,
        share_of_threes,
        algorithm,
        kl=ADAPTIVE,
        reference=model(family, seed=0),
        engine=Engine(copy_of(policy)) if start else None,
        settings=SETTINGS,
        minibatch=6,
    )
    groups = {"policy.": POLICY, "critic.": CRITIC} if algorithm == "ppo" else POLICY
    return Learner(module, groups, STEPS[algorithm][1], micro_batch=4, spike=6.0), source


def go_on(learner, source, every=()):
    told = []
    loss = source.algorithm.loss(source.config.temperature, source.settings, source.kl)
    fit(learner, source, loss, [Every(1, lambda step, metrics: told.append(metrics)), *every])
    return told, [[(s.ids, s.logps) for s in samples] for samples, _, _ in source.seen]


@pytest.mark.parametrize("algorithm", STEPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_rl_resumes_bit_identically(tmp_path, family, algorithm):
    """Losses, weights of policy and critic, both optimizers, coefficient, and every sampled id."""
    first, last = STEPS[algorithm]
    learner, source = fresh(family, algorithm, 0)
    saved = []

    def save(step, metrics):
        if not saved:
            tensors, plain = learner.state()
            checkpoint.save(tmp_path, step, tensors, {"learner": plain, "source": source.state()})
            saved.append((step, source.round))

    told, sampled = go_on(learner, source, [Every(first, save, border=True)])
    (step, round_) = saved[0]
    assert first <= step < last
    final = {k: v.clone() for k, v in learner.state()[0].items()}
    assert len(told) >= last and len(sampled) > round_  # the last round is finished

    other, again = fresh(family, algorithm, 1)
    _, tensors, plain, _ = checkpoint.load_newest(tmp_path)
    other.restore(tensors, plain["learner"])
    again.restore(plain["source"])
    assert again.coef != ADAPTIVE.coef
    told_again, sampled_again = go_on(other, again)
    assert sampled_again == sampled[round_:]
    assert told_again == told[step:]
    assert again.coef == source.coef
    found = other.state()[0]
    assert found.keys() == final.keys()
    assert [n for n in final if not torch.equal(found[n], final[n])] == []


def test_another_seed_samples_otherwise():
    """The proof above would be empty if every run sampled the same."""
    learner, source = fresh("decoder", "reinforce", 0)
    _, sampled = go_on(learner, source)
    learner, source = fresh("decoder", "reinforce", 0)
    source.seed = 1
    assert go_on(learner, source)[1] != sampled
