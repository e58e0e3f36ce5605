"""The health line names what ails a run and keeps quiet about a healthy one; numbers that cannot be stop it."""

import dataclasses
import math
import random
import re

import pytest
import torch
from learn.toys import PLAIN, V, learner

from pronk.rl.health import Health, Still, check_step
from pronk.rl.kl import KLConfig

from .toys import OFF, actor, model, source_of, trained

FINE = {
    "reward/std": 0.2,
    "groups/flat": 0.1,
    "kl/sequence": 1.0,
    "kl/token": 0.05,
    "kl/coef": 0.05,
    "finished": 0.9,
    "value/explained": 0.5,
    "policy/entropy": 1.0,
    "policy/clipfrac": 0.1,
}


def words(rounds, **columns):
    """What is said of so many rounds in which these numbers differ from a healthy run's."""
    health = Health()
    for i in range(rounds):
        row = FINE | {"reward/mean": i / rounds}
        health.hear(row | {name.replace("__", "/"): f(i) if callable(f) else f for name, f in columns.items()})
    return health.words()


def test_a_healthy_run_is_called_nothing():
    assert words(60) == []
    assert words(1) == []
    assert words(60, kl__sequence=lambda i: 3 * i / 60, kl__token=lambda i: i / 600) == []
    assert words(60, reward__mean=lambda i: min(1.0, i / 10), reward__std=0.0) == []  # solved, and at rest


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"kl__sequence": lambda i: 2.0**i, "kl__token": 1.0}, r"KL is running away .*: raise --kl\.coef"),
        ({"value__explained": -0.2}, "the critic explains nothing"),
        ({"reward__mean": lambda i: 0.3 + 0.01 * (-1) ** i}, "the reward stands still"),
        ({"groups__flat": 1.0}, "every group has zero variance"),
        ({"finished": 0.0}, r"answers hit the length limit: raise --rollout\.max-tokens"),
        ({"policy__clipfrac": 0.6}, "steps are too large"),
        ({"policy__entropy": 1e-4}, "hardly explores"),
    ],
)
def test_each_ailment_has_its_sentence(columns, wanted):
    (said,) = words(60, **columns)

    assert re.search(wanted, said)


def test_without_a_reference_kl_cannot_run_away():
    assert words(60, kl__sequence=lambda i: 2.0**i, kl__token=1.0, kl__coef=0.0) == []


def test_reward_hacking_is_named_with_its_peak():
    """The proxy rises all along, the gold only up to round 20 (pitfall 46)."""
    proxy, gold = (lambda i: i / 60), (lambda i: 1 - abs(i - 20) / 40)
    (said,) = words(60, reward__mean=proxy, gold__mean=gold)
    assert "the reward is being hacked" in said
    peak = int(said.split("since round ")[1].split()[0])
    assert 18 <= peak <= 26
    assert words(60, reward__mean=proxy, gold__mean=lambda i: min(0.5, i / 40)) == []
    noisy = lambda i: 0.5 + 0.05 * math.sin(7 * i)  # noqa: E731
    assert words(60, reward__mean=proxy, gold__mean=noisy) == []


@pytest.mark.parametrize(("rounds", "fall", "least", "most"), [(150, 0.0, 0, 1), (150, 0.2, 10, 10), (40, 0.4, 8, 10)])
def test_a_slow_fall_is_told_from_noise(rounds, fall, least, most):
    """Rounds of about a hundred samples, whose mean gold has an error of 0.12 (the story world's): of ten runs so many
    are named by their end. A truth that stands still is not named though its best rounds look better than its last."""
    found = 0
    for seed in range(10):
        dice = random.Random(seed)
        truth = [0.65 - fall * max(0.0, i / rounds - 0.3) / 0.7 + dice.gauss(0, 0.12) for i in range(rounds)]
        said = words(rounds, reward__mean=lambda i: i / rounds, gold__mean=lambda i, truth=truth: truth[i])
        found += any("hacked" in line for line in said)
    assert least <= found <= most


def test_a_planted_exploit_is_detected():
    """The proxy pays for a token that the gold reward punishes beyond two a sample; training finds it (pitfall 46)."""
    module = model()

    def proxy(samples):
        return [sum(i == 3 for i in s.ids) / 6 for s in samples]

    def gold(samples):
        return [min(1.0, sum(i == 3 for i in s.ids) / 2) - max(0, sum(i == 3 for i in s.ids) - 2) for s in samples]

    source = source_of(module, rewards={"proxy": (1.0, proxy)}, n=8)
    source.gold = {"gold": (1.0, gold)}
    trained(module, source, 25, dataclasses.replace(PLAIN, lr=0.004, clip=1.0))
    health = Health()
    for _, _, statistics in source.seen:
        health.hear(statistics)
    assert source.seen[-1][2]["reward/mean"] > source.seen[0][2]["reward/mean"] + 0.3
    assert source.seen[-1][2]["gold/mean"] == source.seen[-1][2]["gold/gold"]
    assert any("the reward is being hacked" in line for line in health.words())


def test_gold_is_watched_and_never_learned_from():
    module, other = model(), model()
    plain, watched = source_of(module), source_of(other)
    watched.gold = {"odd": (1.0, lambda samples: [1e6 * len(s.ids) for s in samples])}
    trained(module, plain, 2)
    trained(other, watched, 2)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters()))
    assert watched.seen[0][2]["gold/mean"] > 1e5


# ── numbers that cannot be


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"policy/entropy": math.log(V) + 0.1}, r"entropy is 2\.66.*outside of 0 to ln\(vocabulary\)"),
        ({"policy/entropy": -0.1}, "outside of 0"),
        ({"value/clipfrac": 1.2}, "which is no share"),
        ({"policy/ratio_mean": 1.3}, r"before a round's first update the ratio .* 1\.3000 .*not what was sampled"),
    ],
)
def test_numbers_out_of_range_are_an_error(metrics, message):
    """0 <= entropy <= ln V, clipfrac a share, ratio 1 before the first update, at run time (pitfalls 2, 40)."""
    with pytest.raises(RuntimeError, match=message):
        check_step(metrics, V, first=True)


def test_numbers_in_range_pass():
    check_step({"policy/entropy": math.log(V), "policy/clipfrac": 1.0, "policy/ratio_mean": 1.0001}, V, first=True)
    check_step({"policy/ratio_mean": 3.0}, V, first=False)
    check_step({"policy/entropy": float("nan")}, V, first=True)  # the learner skips such a step


def test_a_wrong_log_probability_stops_the_run():
    """An engine that notes the log-probabilities of another temperature is found out in the first step."""
    module = model()
    source = source_of(module, algorithm="grpo", n=4)
    batches, loss = iter(source), source.algorithm.loss(1.0, source.settings, OFF)
    batch = next(batches)
    assert batch.fresh
    batch.logps = batch.logps * 0.5
    metrics = learner(module).step(batch, loss)
    with pytest.raises(RuntimeError, match="not what was sampled"):
        source.tell(metrics)


# ── every trainable tensor moves


@pytest.mark.parametrize("algorithm", ["reinforce", "rloo", "grpo", "ppo"])
@pytest.mark.parametrize("family", ["decoder", "lstm"])
def test_every_trainable_tensor_moves(algorithm, family):
    """After one step no fingerprint is what it was; a frozen one is not asked for (pitfall 35)."""
    module = actor(family) if algorithm == "ppo" else model(family)
    policy = module.policy if algorithm == "ppo" else module
    policy.embed.weight.requires_grad_(False)
    source = source_of(module, algorithm=algorithm, n=4, kl=KLConfig(coef=0.01))
    still = Still(module)
    assert len(still.before) == sum(p.requires_grad for p in module.parameters()) > 5
    assert still.names(module) == list(still.before)
    trained(module, source, 1)
    assert still.names(module) == []


def test_a_tensor_that_nothing_reads_is_found():
    module = model()
    module.unused = torch.nn.Parameter(torch.ones(3))
    still = Still(module)
    trained(module, source_of(module), 1)
    assert still.names(module) == ["unused"]


def test_two_values_that_changed_places_have_moved():
    module = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 2.0]]))
        still = Still(module)
        module.weight.copy_(torch.tensor([[2.0, 1.0]]))
    assert still.names(module) == []
