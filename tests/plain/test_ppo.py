"""RolloutSource.score with the ppo row is the plain loop of ppo.py, three updates to 1e-6."""

import pytest
import torch
from learn.toys import FAMILIES, actor_critic, copy_of, gap, logits_of, model, rows, weights

from pronk.data.records import Prompt, Sample
from pronk.learn.learner import Learner
from pronk.learn.optim import OptimConfig
from pronk.rl.algorithms import ALGORITHMS, AlgorithmConfig
from pronk.rl.kl import KLConfig
from pronk.rl.losses import ClipConfig
from pronk.rl.rollouts import RolloutConfig, RolloutSource

from . import ppo as plain

T, KL = 0.7, KLConfig(coef=0.3)
SETTINGS = AlgorithmConfig(gamma=0.97, lam=0.9, clip=ClipConfig(ratio=0.2, value=0.05, value_coef=0.4))
POLICY = OptimConfig(lr=0.002, warmup=0, schedule="constant", weight_decay=0.0, clip=0.4, eps=1e-5)
CRITIC = OptimConfig(lr=0.001, warmup=0, schedule="constant", weight_decay=0.0, clip=0.8, eps=1e-5)
MINIBATCHES = [[0, 3, 4], [5, 1, 2], [2, 0, 5]]


def answered():
    """(prompt, answer, reward of each token) of unequal lengths."""
    prompts, answers = rows((3, 1, 4, 2, 5, 2)), rows((4, 6, 1, 3, 2, 5), 7)
    dice = torch.Generator().manual_seed(0)
    return [(p, a, torch.randn(len(a), generator=dice).tolist()) for p, a in zip(prompts, answers)]


def critic_of(module):
    return lambda tokens: module.critic(tokens).values


def scored(actor, reference, samples):
    """The round as pronk sees it."""
    source = RolloutSource(
        engine=None,
        policy=actor.policy,
        prompts=[Prompt(())],
        encode=lambda prompt: [],
        stop=0,
        rewards={"given": (1.0, lambda found: [s[2] for s in samples])},
        algorithm=ALGORITHMS["ppo"],
        config=RolloutConfig(temperature=T, forward=4),
        settings=SETTINGS,
        kl=KL,
        reference=reference,
        critic=actor.critic,
    )
    return source.score([Sample(Prompt(()), "", p, a, [0.0] * len(a), "stop") for p, a, _ in samples])


@pytest.mark.parametrize("family", FAMILIES)
def test_three_updates_equal_the_plain_loop(family):
    ours, reference, samples = actor_critic(family), model(family, seed=5), answered()
    theirs = copy_of(ours)
    whole, _ = scored(ours, reference, samples)
    learner = Learner(ours, {"policy.": POLICY, "critic.": CRITIC}, steps=3, micro_batch=2)
    loss = ALGORITHMS["ppo"].loss(T, SETTINGS, KL)
    found = [learner.step(whole.map(lambda x, rows=rows: x[rows]), loss) for rows in MINIBATCHES]

    policy, critic = logits_of(theirs.policy), critic_of(theirs)
    round_ = plain.prepare(policy, critic, logits_of(reference), samples, temperature=T, beta=0.3, gamma=0.97, lam=0.9)
    losses, norms = plain.train(
        lambda batch: plain.loss_of(policy, critic, batch, temperature=T, ratio=0.2, value=0.05, coef=0.4),
        [[round_[i] for i in rows] for rows in MINIBATCHES],
        [(list(theirs.policy.parameters()), 0.002, 0.4), (list(theirs.critic.parameters()), 0.001, 0.8)],
        betas=(0.9, 0.95),
        eps=1e-5,
    )
    assert found[2]["policy/clipfrac"] > 0  # both clips are at work
    assert found[2]["value/clipfrac"] > 0
    assert min(norms)[0] > 0.4 and max(n[1] for n in norms) > 0.8
    assert [m["loss"] for m in found] == pytest.approx(losses, abs=1e-6)
    assert [m["policy/grad_norm"] for m in found] == pytest.approx([n[0] for n in norms], rel=1e-5)
    assert [m["critic/grad_norm"] for m in found] == pytest.approx([n[1] for n in norms], rel=1e-5)
    assert gap(weights(ours), weights(theirs)) < 1e-6
