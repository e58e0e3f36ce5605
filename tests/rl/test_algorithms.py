"""Rows and their own choices; whole rounds of every algorithm: ratio 1 at first, masked and punished long answers."""

import dataclasses
from itertools import islice

import pytest
import torch
from learn.toys import FAMILIES, PLAIN, learner

from pronk.data.batch import IGNORE
from pronk.errors import UserError
from pronk.rl.algorithms import ALGORITHMS, AlgorithmConfig
from pronk.rl.kl import KLConfig
from pronk.rl.losses import ClipConfig
from pronk.rl.rollouts import RolloutConfig

from .toys import END, actor, loss_of, mask_of, model, samples_of, share_of_threes, source_of, trained

GROUPS = ("rloo", "grpo", "dr-grpo", "dapo")
FAST = dataclasses.replace(PLAIN, lr=0.01, clip=1.0)


def test_rows_choose_where_the_user_does_not():
    settled = {name: row.settled(AlgorithmConfig(), KLConfig()) for name, row in ALGORITHMS.items()}
    aggregates = {name: config.aggregate for name, (config, _) in settled.items()}
    assert aggregates == {
        **{"reinforce": "sum", "rloo": "sum", "grpo": "answers", "dr-grpo": "constant"},
        **{"dapo": "tokens", "ppo": "tokens"},
    }
    assert {name: kl.where for name, (_, kl) in settled.items()} == {
        **{"reinforce": "reward", "rloo": "reward", "ppo": "reward"},
        **{"grpo": "loss", "dr-grpo": "loss", "dapo": "loss"},
    }
    assert {name: config.clip.ratio_high for name, (config, _) in settled.items() if name == "dapo"} == {"dapo": 0.28}
    asked = AlgorithmConfig(epochs=3, aggregate="tokens", clip=ClipConfig(ratio_high=0.5))
    config, kl = ALGORITHMS["grpo"].settled(asked, KLConfig(where="reward"))
    assert (config.epochs, config.aggregate, config.clip.ratio_high, kl.where) == (3, "tokens", 0.5, "reward")
    assert ALGORITHMS["grpo"].settled(config, kl) == (config, kl)


def test_impossible_wishes_are_told():
    with pytest.raises(UserError, match="rloo takes an answer as one action"):
        ALGORITHMS["rloo"].settled(AlgorithmConfig(aggregate="tokens"), KLConfig())
    with pytest.raises(UserError, match=r"--rollout\.n 1: this algorithm compares a prompt's answers; give 2 or more"):
        source_of(model(), algorithm="grpo", n=1)
    with pytest.raises(UserError, match=r"--kl\.adaptive moves the penalty in the reward"):
        source_of(model(), algorithm="grpo", kl=KLConfig(coef=0.1, adaptive=True))
    with pytest.raises(UserError, match=r"--rollout\.soft-end 9"):
        source_of(model(), soft_end=9)


def test_top_k_and_top_p_are_not_to_be_had():
    """Rollouts sample from the very distribution that is trained: there is no knob that would cut it (pitfall 4)."""
    assert not {"top_k", "top_p", "min_p", "repetition_penalty"} & {f.name for f in dataclasses.fields(RolloutConfig)}


@pytest.mark.parametrize("algorithm", GROUPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_toy_reward_rises(family, algorithm):
    module = model(family)
    source = source_of(module, share_of_threes, algorithm, n=8, kl=KLConfig(coef=0.01))
    trained(module, source, 25, dataclasses.replace(FAST, lr=0.015), 0.75)
    found = [statistics["reward/mean"] for _, _, statistics in source.seen]
    assert found[0] < 0.3
    assert found[-1] > 0.75


@pytest.mark.parametrize("algorithm", GROUPS)
@pytest.mark.parametrize("steps", ["one", "many"])
def test_first_minibatch_has_ratio_one(algorithm, steps):
    """Whether the old log-probabilities are the learner's or, in a round of one step, the engine's (pitfall 2)."""
    module = model()
    source = source_of(module, algorithm=algorithm, n=4, temperature=0.7, minibatch=0 if steps == "one" else 16)
    trainer, batches, loss = learner(module, FAST), iter(source), loss_of(source)
    for _ in range(2):
        batch = next(batches)
        assert batch.fresh == (steps == "one")
        found = trainer.step(batch, loss)
        source.tell(found)
        assert abs(found["policy/ratio_max"] - 1) < 1e-5
        assert abs(found["policy/ratio_min"] - 1) < 1e-5
        assert abs(found["policy/approxkl"]) < 1e-9
        assert found["policy/clipfrac"] == 0
        if steps == "many":
            found = trainer.step(next(batches), loss)
            assert found["policy/ratio_max"] > 1.001 > 0.999 > found["policy/ratio_min"]


def test_a_round_of_one_step_asks_the_policy_for_no_forward():
    """The engine's own numbers serve where they are only looked at: GRPO's KL is in the loss."""
    calls = []
    for algorithm, minibatch, kl in (
        ("grpo", 0, KLConfig(coef=0.1)),
        ("grpo", 8, KLConfig(coef=0.1)),
        ("rloo", 0, KLConfig(coef=0.1)),
        ("rloo", 8, KLConfig(coef=0.1)),
        ("rloo", 0, KLConfig(coef=0.0)),
    ):
        module = model()
        source = source_of(module, algorithm=algorithm, minibatch=minibatch, kl=kl)
        samples, seen = source.sample(), []
        hook = module.register_forward_hook(lambda *rest, seen=seen: seen.append(1))
        whole, statistics = source.score(samples)
        hook.remove()
        calls.append(len(seen))
        assert statistics["kl/sequence"] == pytest.approx(0, abs=1e-4)
        assert whole.logps[whole.targets != IGNORE].max() < 0
    assert calls == [0, 1, 1, 1, 0]


# ── long answers


def test_overlong_answers_are_left_out_of_the_loss():
    """DAPO's filter: cut answers count in their group's mean, and are not learned from."""
    samples = samples_of([[3, END], [4, 5, 6], [7, END], [8, 9, 10]])
    prompt = samples[0].prompt
    for sample in samples:
        sample.prompt = prompt
    kept, masked = (
        source_of(model(), lambda s: float(s.ids[0]), "dapo", cut=cut).score(samples)[0] for cut in ("learn", "mask")
    )
    assert mask_of(kept).sum(1).tolist() == [2, 3, 2, 3]
    assert mask_of(masked).sum(1).tolist() == [2, 0, 2, 0]
    assert torch.equal(kept.advantages, masked.advantages)
    loss = ALGORITHMS["dapo"].loss(1.0, AlgorithmConfig(), KLConfig(coef=0.0))
    assert loss(model()(masked.tokens), masked)[1] == 4


def test_a_round_of_cut_answers_alone_moves_nothing():
    module = model()
    source = source_of(module, algorithm="dapo", cut="mask", n=4, max_tokens=1)
    whole, _ = source.score(samples_of([[3]] * 8))
    found = learner(module).step(whole, loss_of(source))
    assert found["loss"] == 0
    assert found["grad_norm"] == 0


def test_the_soft_end_punishes_the_last_tokens_before_the_limit():
    """0 up to max_tokens - soft_end, then a straight line down to -1 (DAPO, eq. 13)."""
    source = source_of(model(), lambda s: 0.0, max_tokens=6, soft_end=4)
    samples = samples_of([[3] * n for n in range(1, 7)])
    source.score(samples)
    assert [s.reward for s in samples] == pytest.approx([0, 0, -0.25, -0.5, -0.75, -1])


# ── groups without variance


def test_groups_without_variance_have_a_kl_term_and_no_policy_term():
    """The share of them is logged; KL in the loss pulls them home all the same (pitfall 31)."""
    module, away = model(), model(seed=5)
    for kl, moves in ((KLConfig(coef=0.0), False), (KLConfig(coef=0.1), True)):
        source = source_of(module, lambda s: 1.0, "grpo", n=4, kl=kl, reference=away if kl.coef else None)
        batch = next(iter(source))
        assert source.seen[0][2]["groups/flat"] == 1.0
        total, _, _ = loss_of(source)(module(**batch.inputs()), batch)
        module.zero_grad()
        total.backward()
        norm = sum(p.grad.abs().sum().item() for p in module.parameters())
        assert (norm > 1e-3) == moves


def test_the_share_of_flat_groups_is_counted_by_prompt():
    samples = samples_of([[3, END], [4, END], [5, END], [6, END], [7, END], [8, END]])
    for i, sample in enumerate(samples):
        sample.prompt = samples[i % 3].prompt
    scores = [1.0, 2.0, 3.0, 1.0, 2.5, 3.0]
    source = source_of(model(), rewards={"given": (1.0, lambda found: scores)}, algorithm="grpo")
    assert source.score(samples)[1]["groups/flat"] == pytest.approx(4 / 6)


def test_a_prompts_only_answer_is_no_flat_group():
    source = source_of(model(), lambda s: 1.0, n=1)
    next(iter(source))
    assert source.seen[0][2]["groups/flat"] == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_named_statistics_are_all_there(algorithm):
    """The 23 of origins.md, under our names, and what shows health (docs/metrics.md)."""
    module = actor() if algorithm == "ppo" else model()
    source = source_of(module, algorithm=algorithm, kl=KLConfig(coef=0.05), n=4)
    (told,) = trained(module, source, 1) if algorithm != "ppo" else trained(module, source, 1)[:1]
    there = told.keys() | source.seen[0][2].keys()
    wanted = {"loss", "policy/entropy", "advantages/mean", "advantages/var", "returns/mean", "returns/var"}
    wanted |= {"reward/mean", "reward/var", "reward/total", "kl/sequence", "kl/k2", "kl/k3", "groups/flat", "finished"}
    if algorithm != "reinforce":
        wanted |= {f"policy/{name}" for name in ("approxkl", "policykl", "clipfrac")} | {"loss/policy"}
        wanted |= {f"policy/ratio_{name}" for name in ("mean", "min", "max")}
    if algorithm == "ppo":
        wanted |= {f"{group}/{name}" for group in ("policy", "critic") for name in ("lr", "grad_norm")} | {"loss/value"}
        wanted |= {f"value/{name}" for name in ("predicted", "error", "clipfrac", "mean", "var", "explained")}
    assert wanted <= there


def test_samples_carry_their_reward():
    source = source_of(model(), missing_end=-2.0)
    batches = iter(source)
    list(islice(batches, 1))
    samples = source.seen[0][0]
    assert [s.reward for s in samples] == [len(s.ids) - 2.0 * (s.finish == "length") for s in samples]
