"""Policies really learn: rewards rise for both families under both algorithms, within seconds."""

import dataclasses

import pytest
import torch
from learn.toys import FAMILIES, PLAIN, copy_of, rows

from pronk.data.records import Prompt
from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.learn.learner import Learner
from pronk.rl.algorithms import AlgorithmConfig
from pronk.rl.kl import KLConfig

from .toys import END, OFF, PROMPTS, actor, length_of, model, share_of_threes, source_of, trained

FAST = dataclasses.replace(PLAIN, lr=0.01, clip=1.0)


def run(family, algorithm, reward, rounds, enough=float("inf"), **keys):
    """The mean reward of each round."""
    module = actor(family) if algorithm == "ppo" else model(family)
    source = source_of(module, reward, algorithm, **({"n": 8} | keys))
    trained(module, source, rounds, FAST, enough)
    return [statistics["reward/mean"] for _, _, statistics in source.seen], module, source


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_toy_reward_rises(family, algorithm):
    """The share of one token in the answer, with KL to the reference."""
    found, _, source = run(family, algorithm, share_of_threes, 12, kl=KLConfig(coef=0.01))
    assert found[0] < 0.3
    assert found[-1] > 0.75
    assert source.seen[-1][2]["kl/sequence"] > 1.0


@pytest.mark.parametrize("own", [False, True], ids=["aliased", "copied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_sees_new_weights(family, own):
    """A canary: when longer is better, answers must grow longer (pitfall 36)."""
    module = model(family)
    source = source_of(module, length_of, engine=Engine(copy_of(module) if own else module), n=8, max_tokens=16)
    trained(module, source, 10, FAST)
    lengths = [statistics["length"] for _, _, statistics in source.seen]
    assert lengths[0] < 13.5
    assert lengths[-1] > lengths[0] + 2


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
@pytest.mark.parametrize("family", FAMILIES)
def test_stopping_at_length_five_is_learned(family, algorithm):
    """Only an answer that ends itself with its fifth token is worth something: the end must be trained where it was
    sampled, and nowhere else (pitfall 8)."""

    def five(sample):
        return float(sample.finish == "stop" and len(sample.ids) == 5)

    prompts = [Prompt((), {"ids": ids}) for ids in rows([2] * 8)]
    found, module, _ = run(family, algorithm, five, 100, 0.88, max_tokens=10, n=16, prompts=prompts)
    assert found[0] < 0.2
    assert len(found) < 100
    engine = Engine(module)
    answers = engine.generate([p.meta["ids"] for p in prompts], Sampling(10, n=25, stop=(END,), seed=1))
    assert sum(five(a) for a in answers) / len(answers) > 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_critic_explains_what_the_prompt_decides(family):
    """One step, and a reward that the prompt alone decides: explained variance goes to 1 (pitfall 14)."""
    prompts = [Prompt((), {"ids": [1, i]}) for i in range(2, 10)]
    still = dataclasses.replace(PLAIN, lr=0.0)
    module = actor(family)
    source = source_of(
        module,
        lambda sample: float(sample.prompt.meta["ids"][1] % 3),
        "ppo",
        prompts=prompts,
        max_tokens=1,
        settings=AlgorithmConfig(epochs=20),
    )
    groups = {"policy.": still, "critic.": FAST}
    learner, loss, batches = (
        Learner(module, groups, 1000),
        source.algorithm.loss(1.0, source.settings, OFF),
        iter(source),
    )
    while source.round < 5 or not source.border:
        learner.step(next(batches), loss)
    explained = [statistics["value/explained"] for _, _, statistics in source.seen]
    assert explained[0] < 0.5
    assert explained[-1] > 0.95
    assert source.seen[-1][2]["returns/var"] > 0.1


def test_a_high_kl_price_keeps_the_policy_home():
    """The same reward under a price of almost 0, 0.3 and 10 a nat: KL falls."""
    ends = []
    for coef in (1e-6, 0.3, 10.0):
        _, _, source = run("decoder", "reinforce", share_of_threes, 12, kl=KLConfig(coef=coef))
        ends.append(sum(s["kl/sequence"] for _, _, s in source.seen[-3:]) / 3)
    assert ends[0] > 2 * ends[1] > 0
    assert ends[2] < 0.5
    assert ends[1] > ends[2]


@pytest.mark.parametrize("estimator", ["k2", "k3"])
@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_kl_in_the_loss_pulls_home(algorithm, estimator):
    """A policy that starts away from its reference, without any reward, comes nearer."""
    kl = KLConfig(coef=1.0, where="loss", estimator=estimator)
    _, _, source = run("decoder", algorithm, lambda s: 0.0, 10, kl=kl, reference=model(seed=5))
    first, last = (source.seen[i][2]["kl/sequence"] for i in (0, -1))
    assert last < 0.5 * first


def test_tokens_that_were_rewarded_each_are_learned():
    """A reward for each token: copy the letter that the prompt shows (origins: word copying with a larger critic)."""

    def reward(samples):
        return [[float(i == s.prompt_ids[-1]) for i in s.ids] for s in samples]

    module, prompts = actor("lstm"), [Prompt((), {"ids": [1, i]}) for i in range(2, 10)]
    source = source_of(module, algorithm="ppo", rewards={"copied": (1.0, reward)}, prompts=prompts, n=8)
    trained(module, source, 120, FAST, enough=4.5)
    found = [statistics["reward/copied"] for _, _, statistics in source.seen]
    assert found[0] < 1.5
    assert found[-1] >= 4.5  # of six


def test_greedy_answers_of_the_trained_policy_do_it_too():
    _, module, _ = run("decoder", "reinforce", share_of_threes, 15)
    answers = Engine(module).generate([p.meta["ids"] for p in PROMPTS], Sampling(6, 0.0, stop=(END,)))
    assert all(torch.tensor(a.ids).eq(3).float().mean() > 0.8 for a in answers)
