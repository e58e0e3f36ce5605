"""A tiny world for rollouts: prompts of a few ids, answers of a few ids, END ends them."""

import torch
from learn import toys
from learn.toys import PLAIN, V, copy_of, rows

from pronk.data.batch import IGNORE
from pronk.data.records import Prompt, Sample
from pronk.engine.engine import Engine
from pronk.learn.learner import Learner
from pronk.models.heads import ActorCritic, Scorer
from pronk.rl.algorithms import ALGORITHMS, AlgorithmConfig
from pronk.rl.kl import KLConfig
from pronk.rl.rewards import each
from pronk.rl.rollouts import RolloutConfig, RolloutSource

END = V - 1
OFF = KLConfig(coef=0.0)
PROMPTS = [Prompt((), {"ids": ids}) for ids in rows((3, 1, 2, 4, 2, 3, 1, 5), seed=40)]


def model(family="decoder", seed=0, **keys):
    """A policy that is far from sure: every token is sampled now and then."""
    made = toys.model(family, seed, **keys)
    with torch.no_grad():
        made.embed.weight.mul_(0.4)
    return made


class Watched(RolloutSource):
    """Keeps (samples, rollouts, statistics) of each round."""

    def __init__(self, *rest, **more):
        super().__init__(*rest, **more)
        self.seen = []

    def score(self, samples):
        whole, statistics = super().score(samples)
        self.seen.append((samples, whole, statistics))
        return whole, statistics


def length_of(sample):
    return float(len(sample.ids))


def share_of_threes(sample):
    return sum(i == 3 for i in sample.ids) / len(sample.ids)


def source_of(
    module,
    reward=length_of,
    algorithm="reinforce",
    *,
    kl=OFF,
    reference=None,
    prompts=PROMPTS,
    settings=None,
    engine=None,
    seed=0,
    rewards=None,
    **config,
):
    """A source over a policy, or over an ActorCritic for ppo. The engine runs the policy itself unless one is given."""
    actor = isinstance(module, ActorCritic)
    policy = module.policy if actor else module
    if kl.coef and reference is None:
        reference = copy_of(policy).requires_grad_(False)
    return Watched(
        engine=engine or Engine(policy, slots=32),
        policy=policy,
        prompts=prompts,
        encode=lambda prompt: prompt.meta["ids"],
        stop=END,
        rewards=rewards or {"reward": (1.0, each(reward))},
        algorithm=ALGORITHMS[algorithm],
        config=RolloutConfig(**({"prompts": 8, "n": 2, "max_tokens": 6} | config)),
        settings=settings or AlgorithmConfig(),
        kl=kl,
        reference=reference,
        critic=module.critic if actor else None,
        seed=seed,
    )


def actor(family="decoder", seed=0, **keys):
    """Policy and a larger critic of the same family."""
    return ActorCritic(model(family, seed, **keys), Scorer(model(family, seed + 1, width=24, **keys), 24))


def loss_of(source):
    return source.algorithm.loss(source.config.temperature, source.settings, source.kl, source.config.max_tokens)


def trained(module, source, rounds, config=PLAIN, enough=float("inf"), **keys):
    """Train for so many rounds, fewer where the mean reward is `enough` before; returns each step's metrics."""
    groups = {"policy.": config, "critic.": config} if isinstance(module, ActorCritic) else config
    learner = Learner(module, groups, 10_000, **keys)
    loss = loss_of(source)
    told, batches = [], iter(source)
    while source.round < rounds or not source.border:
        if source.border and source.seen and source.seen[-1][2]["reward/mean"] >= enough:
            break
        told.append(learner.step(next(batches), loss))
        source.tell(told[-1])
    return told


def samples_of(answers, prompts=None, finish=None):
    """Samples with given ids; those that end with END are finished."""
    prompts = prompts or [[1, 2]] * len(answers)
    finish = finish or ["stop" if ids[-1] == END else "length" for ids in answers]
    return [
        Sample(Prompt((), {"ids": p}), "", list(p), list(a), [0.0] * len(a), f)
        for p, a, f in zip(prompts, answers, finish)
    ]


def ragged(lengths=(4, 2, 6, 1, 3, 5), seed=3):
    """Samples with prompts and answers of unequal lengths."""
    prompts = rows((3, 1, 4, 2, 5, 2), seed)
    return samples_of(rows(lengths, seed + 50), prompts[: len(lengths)])


def mask_of(whole):
    return (whole.targets != IGNORE).float()
