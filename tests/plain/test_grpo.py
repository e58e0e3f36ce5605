"""RolloutSource.score with the rows of the group methods is the plain loop of grpo.py, three updates to 1e-6."""

import dataclasses

import pytest
import torch
from learn.toys import FAMILIES, copy_of, gap, logits_of, model, rows, weights

from pronk.data.records import Prompt, Sample
from pronk.learn.learner import Learner
from pronk.learn.optim import OptimConfig
from pronk.rl.algorithms import ALGORITHMS, AlgorithmConfig
from pronk.rl.kl import KLConfig
from pronk.rl.losses import ClipConfig
from pronk.rl.rollouts import RolloutConfig, RolloutSource

from . import grpo as plain
from .ppo import train

T, LONGEST, BETA = 0.7, 12, 0.3
KL = KLConfig(coef=BETA, estimator="k3")
ADAM = OptimConfig(lr=0.001, warmup=0, schedule="constant", weight_decay=0.0, clip=0.5, eps=1e-4)
MINIBATCHES = [[0, 3, 4], [5, 1, 2], [2, 0, 5]]
HIGH = {"grpo": 0.02, "dr-grpo": 0.02, "dapo": 0.03, "rloo": 0.02}
NAMES = [0, 1, 0, 1, 1, 0]  # which prompt each sample answers, in no order


def answered():
    """(which prompt, prompt, answer, score) of unequal lengths."""
    prompts, answers = rows((3, 5)), rows((4, 6, 1, 3, 2, 5), 7)
    scores = (0.3 * torch.randn(6, generator=torch.Generator().manual_seed(2))).tolist()
    return [(name, prompts[name], answer, score) for name, answer, score in zip(NAMES, answers, scores)]


def near(policy):
    """A reference whose log-probabilities are not far off: float32 then holds six digits of the sums."""
    made = copy_of(policy)
    dice = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=dice))
    return made


def scored(policy, reference, samples, algorithm, settings):
    """The round as pronk sees it; prompts are known by the record, not by the place."""
    source = RolloutSource(
        engine=None,
        policy=policy,
        prompts=[Prompt(())],
        encode=lambda prompt: [],
        stop=0,
        rewards={"given": (1.0, lambda found: [s[3] for s in samples])},
        algorithm=ALGORITHMS[algorithm],
        config=RolloutConfig(prompts=2, n=3, minibatch=3, temperature=T, forward=4, max_tokens=LONGEST),
        settings=settings,
        kl=KL,
        reference=reference,
    )
    asked = [Prompt(()), Prompt(())]
    return source.score([Sample(asked[name], "", p, a, [0.0] * len(a), "stop") for name, p, a, _ in samples])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("algorithm", ["grpo", "dr-grpo", "dapo", "rloo"])
def test_three_updates_equal_the_plain_loop(family, algorithm):
    ours, samples = model(family).double(), answered()  # so that only what the library rounds is measured
    reference = near(ours)
    theirs = copy_of(ours)
    settings = AlgorithmConfig(clip=ClipConfig(ratio=0.02, ratio_high=HIGH[algorithm]))
    whole, _ = scored(ours, reference, samples, algorithm, settings)
    assert not whole.fresh
    learner = Learner(ours, ADAM, steps=3, micro_batch=2)
    loss = ALGORITHMS[algorithm].loss(T, settings, KL, LONGEST)
    found = [learner.step(whole.map(lambda x, rows=rows: x[rows]), loss) for rows in MINIBATCHES]

    policy = logits_of(theirs)
    round_ = plain.prepare(policy, logits_of(reference), samples, algorithm, temperature=T, beta=BETA)
    how = {"temperature": T, "low": 0.02, "high": HIGH[algorithm], "beta": BETA, "longest": LONGEST}
    losses, norms = train(
        lambda batch: plain.loss_of(policy, batch, algorithm, **how),
        [[round_[i] for i in rows] for rows in MINIBATCHES],
        [(list(theirs.parameters()), 0.001, 0.5)],
        betas=(0.9, 0.95),
        eps=1e-4,
    )
    assert found[2]["policy/clipfrac"] > 0  # the clip is at work
    assert [m["loss"] for m in found] == pytest.approx(losses, rel=1e-6, abs=1e-6)
    assert [m["grad_norm"] for m in found] == pytest.approx([n[0] for n in norms], rel=1e-5)
    assert gap(weights(ours), weights(theirs)) < 1e-6


def test_the_methods_differ():
    """The proof above would be empty if all rows were one."""
    found = {}
    for algorithm in ("grpo", "dr-grpo", "dapo", "rloo"):
        ours, settings = model(), AlgorithmConfig()
        whole, _ = scored(ours, near(ours), answered(), algorithm, settings)
        kl = dataclasses.replace(KL)
        output = ours(**whole.inputs())
        total, count, _ = ALGORITHMS[algorithm].loss(T, settings, kl, LONGEST)(output, whole)
        found[algorithm] = (total / count).item()
    assert len({round(value, 4) for value in found.values()}) == 4
