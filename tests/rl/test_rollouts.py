"""A round of rollouts: what was sampled is what is learned, scored where and as it should be, each sample once."""

import dataclasses
import hashlib
from itertools import chain, islice

import pytest
import torch
from learn.toys import FAMILIES, PLAIN, D, V, copy_of, learner, rows

from pronk.data.batch import IGNORE
from pronk.data.records import Prompt
from pronk.engine.engine import Engine
from pronk.errors import UserError
from pronk.learn.fit import Every, fit
from pronk.learn.learner import Learner
from pronk.models.heads import ActorCritic, disable_dropout
from pronk.rl import rollouts as rollouts_module
from pronk.rl.algorithms import ALGORITHMS, AlgorithmConfig
from pronk.rl.kl import KLConfig
from pronk.rl.losses import ClipConfig

from .toys import END, OFF, PROMPTS, actor, length_of, mask_of, model, ragged, samples_of, source_of, trained

UNIT = AlgorithmConfig(gamma=1.0, lam=1.0, whiten=False)


def brute(module, samples, temperature):
    """Log-probability of each sampled token, one forward over the bare row each."""
    found = []
    with torch.no_grad():
        for s in samples:
            output = module(torch.tensor([s.prompt_ids + s.ids]))
            logps = (output.head(output.hidden)[0].double() / temperature).log_softmax(-1)
            start = len(s.prompt_ids) - 1
            found.append([logps[start + j, i].item() for j, i in enumerate(s.ids)])
    return found


def unpad(x, whole):
    """[B, T] -> a list of numbers for each row, where something was sampled."""
    return [row[keep].tolist() for row, keep in zip(x, whole.targets != IGNORE)]


def close(found, wanted, within=1e-5):
    assert [len(row) for row in found] == [len(row) for row in wanted]
    for row, other in zip(found, wanted):
        assert row == pytest.approx(other, abs=within)


def valueless(family="decoder"):
    """Policy and critic whose values are all 0."""
    made = actor(family)
    torch.nn.init.zeros_(made.critic.value.weight)
    return made


# ── what is sampled, and its log-probabilities


@pytest.mark.parametrize("family", FAMILIES)
def test_first_minibatch_has_ratio_one(family):
    """Before the first update the policy is the one that sampled: at temperature 0.7, with pads (pitfalls 2, 3)."""
    module = actor(family)
    source = source_of(module, temperature=0.7, minibatch=6, algorithm="ppo")
    told = trained(module, source, 2, dataclasses.replace(PLAIN, lr=0.01), micro_batch=4)
    firsts = [told[0], told[len(told) // 2]]
    for found in firsts:
        assert abs(found["policy/ratio_max"] - 1) < 1e-5
        assert abs(found["policy/ratio_mean"] - 1) < 1e-5
        assert abs(found["policy/approxkl"]) < 1e-9
        assert found["policy/clipfrac"] == 0
    assert told[1]["policy/ratio_max"] > 1.001  # and then it is not


@pytest.mark.parametrize("family", FAMILIES)
def test_all_log_probabilities_use_the_sampling_temperature(family):
    """Sampled, old and reference ones, by brute force at T = 0.7 (pitfall 3)."""
    module, reference = model(family), model(family, seed=5)
    source = source_of(module, kl=KLConfig(), reference=reference, temperature=0.7)
    samples = source.sample()
    whole, _ = source.score(samples)
    close([s.logps for s in samples], brute(module, samples, 0.7), 1e-4)
    close(unpad(whole.logps, whole), brute(module, samples, 0.7), 1e-4)
    close(unpad(whole.ref_logps, whole), brute(reference, samples, 0.7), 1e-4)


def test_sampled_frequencies_are_those_of_the_log_probabilities():
    """Chi-square of 4,000 first tokens against the trainer's own probabilities at T = 0.7 (pitfalls 3, 4)."""
    module = model()
    source = source_of(module, kl=KLConfig(), prompts=PROMPTS[:1], n=4000, max_tokens=1, temperature=0.7)
    source.config = dataclasses.replace(source.config, prompts=1)
    samples = source.sample()
    with torch.no_grad():
        output = module(torch.tensor([samples[0].prompt_ids]))
        chances = (output.head(output.hidden)[0, -1] / 0.7).softmax(-1)
    counts = torch.bincount(torch.tensor([s.ids[0] for s in samples]), minlength=V)
    assert (chances > 0.005).sum() > 5
    common = chances * 4000 >= 5
    chi = ((counts - 4000 * chances)[common] ** 2 / (4000 * chances[common])).sum().item()
    assert chi < 35  # 12 degrees of freedom or fewer: p = 0.0005
    whole, _ = source.score(samples[:50])
    assert unpad(whole.logps, whole)[0][0] == pytest.approx(chances[samples[0].ids[0]].log().item(), abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_trained_are_ids_sampled(family):
    """Never decoded and encoded again: here decoding loses everything (pitfall 12)."""
    module = model(family)
    source = source_of(module, engine=Engine(module, decode=lambda ids: "the same text"))
    samples = source.sample()
    whole, _ = source.score(samples)
    assert {s.text for s in samples} == {"the same text"}
    assert len({tuple(s.ids) for s in samples}) > 3
    assert [list(map(int, row)) for row in unpad(whole.targets, whole)] == [s.ids for s in samples]
    for row, s in zip(whole.tokens.tolist(), samples):
        assert row[: len(s.prompt_ids) + len(s.ids) - 1] == s.prompt_ids + s.ids[:-1]
    assert [s.prompt_ids for s in samples] == [s.prompt.meta["ids"] for s in samples]


@pytest.mark.parametrize("own", [False, True], ids=["aliased", "copied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_engine_log_probabilities_are_the_trainers_after_each_load(family, own):
    """Whether the engine runs the policy itself or a copy that is loaded (pitfall 36)."""
    module = model(family)
    engine = Engine(copy_of(module) if own else module)
    source = source_of(module, kl=KLConfig(), engine=engine)
    trained(module, source, 4, dataclasses.replace(PLAIN, lr=0.02))
    assert len(source.seen) == 4
    for samples, whole, _ in source.seen:
        close([s.logps for s in samples], unpad(whole.logps, whole), 2e-5)
    first, last = source.seen[0][0], source.seen[-1][0]
    moved = brute(module, first, 1.0)
    assert max(abs(a - b) for row, s in zip(moved, first) for a, b in zip(row, s.logps)) > 0.1
    assert first[0].ids != last[0].ids or first[1].ids != last[1].ids


# ── ends


def test_each_finished_sample_has_exactly_one_end():
    """The sampled end is trained, a truncated sample gets none; padding is never learned (pitfalls 7, 8)."""
    source = source_of(model(), n=6, max_tokens=8)
    samples = source.sample()
    whole, statistics = source.score(samples)
    finished = [s.finish == "stop" for s in samples]
    assert 3 < sum(finished) < len(samples) - 3
    for s, targets in zip(samples, unpad(whole.targets, whole)):
        assert targets.count(END) == (s.finish == "stop")
        assert (targets[-1] == END) == (s.finish == "stop")
        assert s.finish == "stop" or len(s.ids) == 8
    assert statistics["finished"] == pytest.approx(sum(finished) / len(samples))


def test_the_sampled_end_gets_an_advantage():
    """Its advantage is not zero and its log-probability is trained (pitfall 8)."""
    samples = samples_of([[3, END], [4, 5], [6, END], [7, 8]])
    for algorithm in ("reinforce", "ppo"):
        module = actor() if algorithm == "ppo" else model()
        source = source_of(module, lambda s: float(s.finish == "stop"), algorithm)
        whole, _ = source.score(samples)
        ends = whole.targets == END
        assert ends.sum() == 2
        assert whole.advantages[ends].min() > 0
        assert whole.advantages[(whole.targets == 5) | (whole.targets == 8)].max() < 0


# ── rewards


def test_score_sits_on_the_last_real_token_and_kl_on_every_token():
    """gamma = lambda = 1 and V = 0: the return at t is score - beta * sum of KL from t on (pitfall 9)."""
    module, reference, beta = valueless(), model(seed=5), 0.3
    samples = ragged()
    scores = [1.0, -2.0, 0.5, 3.0, 0.0, -1.0]
    source = source_of(
        module,
        rewards={"given": (1.0, lambda found: scores)},
        algorithm="ppo",
        kl=KLConfig(coef=beta),
        reference=reference,
        settings=UNIT,
    )
    whole, _ = source.score(samples)
    ours, theirs = brute(module.policy, samples, 1.0), brute(reference, samples, 1.0)
    wanted = []
    for score, p, q in zip(scores, ours, theirs):
        kl = [a - b for a, b in zip(p, q)]
        wanted.append([score - beta * sum(kl[t:]) for t in range(len(kl))])
    close(unpad(whole.returns, whole), wanted, 1e-4)
    close(unpad(whole.advantages, whole), wanted, 1e-4)
    assert whole.returns[whole.targets == IGNORE].abs().max() == 0


def test_kl_in_the_reward_is_detached_and_never_applied_twice():
    """Twice beta, twice the penalty, once; with KL in the loss the reward has none (pitfall 25)."""
    samples, reference = ragged(), model(seed=5)

    def returns(**kl):
        source = source_of(valueless(), lambda s: 0.0, "ppo", kl=KLConfig(**kl), reference=reference, settings=UNIT)
        whole, _ = source.score(samples)
        tensors = [x for x in vars(whole).values() if isinstance(x, torch.Tensor)]
        assert not any(x.requires_grad for x in tensors)
        return whole.returns

    once = returns(coef=0.1)
    assert once.abs().max() > 0.1
    assert torch.allclose(returns(coef=0.2), 2 * once, atol=1e-6)
    assert not returns(coef=0.1, where="loss").any()
    loss = ALGORITHMS["ppo"].loss(1.0, AlgorithmConfig(), KLConfig(coef=0.1))
    source = source_of(valueless(), algorithm="ppo", kl=KLConfig(coef=0.1), reference=reference)
    assert "kl/loss" not in loss(valueless()(source.score(samples)[0].tokens), source.score(samples)[0])[2]


def test_rewards_of_tokens_and_of_samples_add_up_by_weight():
    samples = ragged((3, 1, 2))
    per_token = [[1.0, 2.0, 3.0], [4.0], [5.0, 6.0]]
    rewards = {"tokens": (0.5, lambda found: per_token), "whole": (-2.0, lambda found: [1, 0.5, True])}
    source = source_of(valueless(), rewards=rewards, algorithm="ppo", settings=UNIT)
    whole, statistics = source.score(samples)
    close(unpad(whole.returns, whole), [[3 - 2, 2.5 - 2, 1.5 - 2], [2 - 1], [5.5 - 2, 3 - 2]])
    assert statistics["reward/tokens"] == pytest.approx(7.0)
    assert statistics["reward/whole"] == pytest.approx(2.5 / 3)
    assert statistics["reward/mean"] == pytest.approx((1 + 1 + 3.5) / 3)


def test_tokens_that_no_reward_judges_are_as_if_never_said():
    """None ends the play: neither learned from nor in any mean, and no value stands behind the last judged token."""
    whole_answers, ends = [[3, 4, 5, 6], [7, 8, END]], [[1.0, 0.0, None, None], [1.0, 1.0, 0.0]]
    twos = [[2.0] * len(row) for row in ends]
    rewards = {"given": (1.0, lambda samples: ends), "half": (0.5, lambda samples: twos)}
    settings = AlgorithmConfig(gamma=0.9, lam=0.8)
    module = actor()
    judged, found = source_of(module, rewards=rewards, algorithm="ppo", settings=settings).score(
        samples_of(whole_answers)
    )
    short = {"given": (1.0, lambda samples: [[2.0, 1.0], [2.0, 2.0, 1.0]])}
    wanted, _ = source_of(module, rewards=short, algorithm="ppo", settings=settings).score(
        samples_of([[3, 4], [7, 8, END]])
    )
    assert unpad(judged.targets, judged) == unpad(wanted.targets, wanted) == [[3, 4], [7, 8, END]]
    for name in ("logps", "values", "advantages", "returns"):
        close(unpad(getattr(judged, name), judged), unpad(getattr(wanted, name), wanted))
    assert found["length"] == 3.5


def test_missing_end_is_added_to_truncated_answers_only():
    source = source_of(valueless(), lambda s: 1.0, "ppo", settings=UNIT, missing_end=-5.0)
    whole, statistics = source.score(samples_of([[3, END], [4, 5, 6]]))
    close(unpad(whole.returns, whole), [[1, 1], [-4, -4, -4]])
    assert statistics["reward/mean"] == pytest.approx(-1.5)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([1.0], "reward odd returned 1 values for 3 samples"),
        ([[1.0] * 3, [1.0] * 2, [1.0] * 2], "reward odd: .* one number for each of its tokens"),
        ([[1.0] * 3, 1.0, [1.0] * 2], "reward odd: give one number a sample"),
        ([None, 1.0, 2.0], "reward odd: give one number a sample"),
    ],
)
def test_a_reward_of_the_wrong_shape_is_named(found, message):
    source = source_of(model(), rewards={"odd": (1.0, lambda samples: found)})
    with pytest.raises(UserError, match=message):
        source.score(ragged((3, 1, 2)))


def test_pads_change_nothing_that_is_logged_or_trained(monkeypatch):
    """100 columns more: statistics, rollouts and the loss are the same (pitfall 10)."""
    plain, samples = rollouts_module.pad_rollouts, ragged()

    def wider(*rest, **more):
        tokens, targets = plain(*rest, **more)
        extra = torch.full((len(tokens), 100), 7)
        return torch.cat([tokens, extra], 1), torch.cat([targets, torch.full_like(extra, IGNORE)], 1)

    def run():
        source = source_of(actor(), length_of, "ppo", kl=KLConfig(coef=0.2), reference=model(seed=5))
        whole, statistics = source.score(samples)
        module = actor()
        told = learner(module).step(whole, source.algorithm.loss(1.0, AlgorithmConfig(), OFF))
        return whole, statistics, told

    whole, statistics, told = run()
    monkeypatch.setattr(rollouts_module, "pad_rollouts", wider)
    wide, statistics_too, told_too = run()
    T = whole.tokens.shape[1]
    assert wide.tokens.shape[1] == T + 100
    assert statistics_too == pytest.approx(statistics, rel=1e-4, abs=1e-5)
    assert told_too == pytest.approx(told, rel=1e-4, abs=1e-5)
    for name in ("logps", "ref_logps", "advantages", "values", "returns"):
        assert torch.allclose(getattr(wide, name)[:, :T], getattr(whole, name), atol=1e-4), name
        assert getattr(wide, name)[:, T:].abs().max() == 0, name


# ── values


@pytest.mark.parametrize("family", FAMILIES)
def test_value_before_a_token_does_not_see_it(family):
    """values[t] belongs to the state in which token t was sampled: another token t leaves it alone (pitfall 14)."""
    source = source_of(actor(family), algorithm="ppo")
    values = []
    for third in (5, 6):
        whole, _ = source.score(samples_of([[3, 4, third, 8]]))
        values.append(unpad(whole.values, whole)[0])
    assert values[0][:3] == values[1][:3]
    assert abs(values[0][3] - values[1][3]) > 1e-4


# ── prompts, minibatches, borders


def test_each_prompt_comes_once_an_epoch():
    prompts = [Prompt((), {"ids": ids}) for ids in rows([2] * 10)]
    for name, prompt in enumerate(prompts):
        prompt.meta["name"] = name
    source = source_of(model(), prompts=prompts, n=1, max_tokens=1)
    source.config = dataclasses.replace(source.config, prompts=4)
    names = []
    for _ in range(5):
        names += [s.prompt.meta["name"] for s in source.sample()]
        source.round += 1
    assert sorted(names[:10]) == sorted(names[10:]) == list(range(10))
    assert names[:10] != names[10:]
    assert names[:10] != list(range(10))


def test_a_round_may_hold_more_prompts_than_there_are():
    """Then it takes up the next epochs' orders."""
    source = source_of(model(), prompts=PROMPTS[:3], n=1, max_tokens=1)
    turns = []
    for _ in range(2):
        turns += source._turn()
        source.round += 1
    assert [sorted(turns[i : i + 3]) for i in range(0, 15, 3)] == [[0, 1, 2]] * 5
    assert len(turns) == 16


@pytest.mark.parametrize("family", FAMILIES)
def test_one_forward_of_a_shared_body_gives_what_two_give(family):
    """Log-probabilities and values of a critic that is a head on the policy's body."""
    module = ActorCritic(model(family), width=D)
    samples = ragged()
    source = source_of(module, algorithm="ppo")
    calls = []
    module.policy.register_forward_hook(lambda *rest: calls.append(1))
    source.critic = module
    whole, _ = source.score(samples)
    assert len(calls) == 1
    close(unpad(whole.logps, whole), brute(module.policy, samples, 1.0), 1e-5)
    with torch.no_grad():
        values = module(tokens=whole.tokens).values
    assert torch.allclose(whole.values, values * mask_of(whole), atol=1e-6)


def test_samples_of_one_prompt_differ_and_rounds_differ():
    source = source_of(model(), prompts=PROMPTS[:1], n=8)
    source.config = dataclasses.replace(source.config, prompts=2)
    first = [tuple(s.ids) for s in source.sample()]
    again = [tuple(s.ids) for s in source.sample()]
    source.round += 1
    later = [tuple(s.ids) for s in source.sample()]
    assert len(set(first)) > 8
    assert first == again  # a pure function of seed, round and weights
    assert first != later
    other = source_of(model(), prompts=PROMPTS[:1], n=8, seed=1)
    other.config = source.config
    assert [tuple(s.ids) for s in other.sample()] != first


def test_minibatches_cover_each_sample_once_an_epoch():
    prompts = [Prompt((), {"ids": ids}) for ids in rows([3] * 10)]
    source = source_of(actor(), algorithm="ppo", prompts=prompts, n=1, minibatch=4, settings=AlgorithmConfig(epochs=3))
    source.config = dataclasses.replace(source.config, prompts=10)
    parts = list(islice(iter(source), 9))
    assert [len(part) for part in parts] == [4, 4, 2] * 3
    keys = [[(*row[:2], *map(float, adv)) for row, adv in zip(p.tokens.tolist(), p.advantages)] for p in parts]
    epochs = [list(chain(*keys[i : i + 3])) for i in (0, 3, 6)]
    assert len(source.seen) == 1
    _, whole, _ = source.seen[0]
    wanted = sorted((*row[:2], *map(float, adv)) for row, adv in zip(whole.tokens.tolist(), whole.advantages))
    assert all(sorted(epoch) == wanted for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    for part in parts:  # a row keeps all that belongs to it
        for row, logps, adv in zip(part.tokens, part.logps, part.advantages):
            at = next(i for i in range(10) if torch.equal(whole.tokens[i], row))
            assert torch.equal(whole.logps[at], logps)
            assert torch.equal(whole.advantages[at], adv)


def test_an_early_stop_skips_the_step_and_ends_the_round():
    """Weights and Adam stay, the rest of the round is dropped, a checkpoint that is due is written (pitfall 18)."""
    module = actor()
    settings = AlgorithmConfig(epochs=4, clip=ClipConfig(stop_kl=1e-3))
    source = source_of(module, algorithm="ppo", settings=settings, minibatch=8)
    trainer = learner(module, dataclasses.replace(PLAIN, lr=0.02), steps=9)
    saved, states, told = [], [], []

    def watch(step, metrics):
        told.append(metrics)
        states.append({k: v.clone() for k, v in trainer.state()[0].items()})

    fit(
        trainer,
        source,
        source.algorithm.loss(1.0, settings, OFF),
        [Every(1, watch), Every(1, lambda step, metrics: saved.append(source.state()), border=True)],
    )
    stops = [i for i, metrics in enumerate(told) if metrics["stopped"]]
    assert len(stops) >= 2
    assert stops[0] < 7  # eight steps would have been a round
    for i in stops:
        assert told[i]["skipped"] == 1
        assert all(torch.equal(states[i][k], states[i - 1][k]) for k in states[i])
    assert len(source.seen) >= 2
    assert len(saved) == len(stops)


def test_a_round_in_the_middle_cannot_be_saved():
    source = source_of(model(), minibatch=8)
    batches = iter(source)
    source.state()
    next(batches)
    assert not source.border
    with pytest.raises(AssertionError, match="between rounds"):
        source.state()
    next(batches)
    assert source.border
    assert source.state()["round"] == 1


# ── reference and controller


def digest(module):
    hashed = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        hashed.update(name.encode() + tensor.numpy().tobytes())
    return hashed.hexdigest()


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_the_reference_stays_frozen(algorithm):
    """Its hash after three rounds is the one before; the policy's is not (pitfall 26)."""
    module = actor() if algorithm == "ppo" else model()
    policy = module.policy if algorithm == "ppo" else module
    reference = copy_of(policy)
    source = source_of(module, length_of, algorithm, kl=KLConfig(coef=0.1), reference=reference)
    before = digest(reference)
    trained(module, source, 3)
    assert digest(reference) == before
    assert digest(policy) != before
    assert source.seen[0][2]["kl/sequence"] == pytest.approx(0, abs=1e-5)
    assert source.seen[-1][2]["kl/sequence"] != pytest.approx(0, abs=1e-3)


def test_adaptive_controller_hears_nats_per_sequence():
    """Each round moves the coefficient by at most 20 % n / horizon; the coefficient is in the state (pitfall 27)."""
    kl = KLConfig(coef=0.1, adaptive=True, target=0.5, horizon=100)
    module = model()
    source = source_of(module, kl=kl, reference=model(seed=5))
    coefs = [source.coef]
    batches = iter(source)
    for _ in range(3):
        next(batches)
        coefs.append(source.coef)
    for (samples, whole, statistics), before, after in zip(source.seen, coefs, coefs[1:]):
        per_sequence = ((whole.logps - whole.ref_logps) * mask_of(whole)).sum(1).mean().item()
        assert statistics["kl/sequence"] == pytest.approx(per_sequence, rel=1e-5)
        assert statistics["kl/token"] == pytest.approx(
            per_sequence * len(samples) / mask_of(whole).sum().item(), rel=1e-4
        )
        error = max(-0.2, min(0.2, per_sequence / 0.5 - 1))
        assert after == pytest.approx(before * (1 + error * len(samples) / 100), rel=1e-9)
        assert statistics["kl/coef"] == before
    assert coefs[1] == pytest.approx(0.1 * (1 + 0.2 * 16 / 100))
    fresh = source_of(model(), kl=kl, reference=model(seed=5))
    fresh.restore(source.state())
    assert (fresh.coef, fresh.round) == (coefs[-1], 3)
    assert source.state() == {"round": 3, "coef": coefs[-1]}


def test_the_coefficient_in_the_state_is_the_one_that_acts():
    kl = KLConfig(coef=0.1, adaptive=True)
    source = source_of(valueless(), lambda s: 0.0, "ppo", kl=kl, reference=model(seed=5), settings=UNIT)
    once, _ = source.score(ragged())
    source.restore({"round": 7, "coef": 0.3})
    thrice, _ = source.score(ragged())
    assert torch.allclose(thrice.returns, 3 * once.returns, atol=1e-5)


# ── dropout, metrics, mistakes


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_off(family):
    """Two forwards in train() mode are equal, and the first ratio is 1 (pitfall 19)."""
    module = model(family, dropout=0.5).train()
    tokens = torch.tensor([rows([9])[0]])
    assert not torch.equal(module(tokens).hidden, module(tokens).hidden)
    assert disable_dropout(module) is module
    assert torch.equal(module(tokens).hidden, module(tokens).hidden)
    made = disable_dropout(actor(family, dropout=0.5)).train()
    source = source_of(made, algorithm="ppo")
    next(iter(source))
    samples, whole, _ = source.seen[0]
    close([s.logps for s in samples], unpad(whole.logps, whole), 2e-5)
    found = Learner(made, PLAIN, 5).step(whole, source.algorithm.loss(1.0, AlgorithmConfig(), OFF))
    assert abs(found["policy/ratio_max"] - 1) < 1e-5


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_metrics_have_ranges(algorithm):
    """0 <= entropy <= ln V, shares within [0, 1], nothing that is not a number (pitfall 40)."""
    module = actor() if algorithm == "ppo" else model()
    source = source_of(module, algorithm=algorithm, kl=KLConfig(coef=0.05), minibatch=8)
    told = trained(module, source, 3, dataclasses.replace(PLAIN, lr=0.02))
    assert len(told) == 6 * source.algorithm.epochs
    for metrics in [*told, *(statistics for _, _, statistics in source.seen)]:
        assert all(abs(value) < float("inf") for value in metrics.values())
        for name, value in metrics.items():
            if name.endswith("clipfrac") or name in ("finished", "skipped", "stopped"):
                assert 0 <= value <= 1, name
            if name.endswith(("_norm", "approxkl", "/var", "/std", "value/error")):
                assert value >= 0, name
    assert all(0 < m["policy/entropy"] <= torch.tensor(float(V)).log() + 1e-5 for m in told)
    if algorithm == "ppo":
        assert any(m["policy/clipfrac"] > 0 for m in told)
        assert all(m["policy/ratio_max"] >= 0 for m in told)
    for samples, _, statistics in source.seen:
        assert ("value/explained" in statistics) == (algorithm == "ppo")
        assert statistics.get("value/explained", 0) <= 1 + 1e-6
        assert statistics["length"] == pytest.approx(sum(len(s.ids) for s in samples) / len(samples))


def test_a_listener_hears_each_round():
    heard = []
    source = source_of(model())
    source.listen = lambda heard_of: heard.append(
        (heard_of.number, len(heard_of.samples), heard_of.statistics["reward/mean"])
    )
    list(islice(iter(source), 3))
    assert [(round, count) for round, count, _ in heard] == [(0, 16), (1, 16), (2, 16)]
    assert heard[0][2] == pytest.approx(sum(len(s.ids) for s in source.seen[0][0]) / 16)


def test_mistakes_are_told():
    with pytest.raises(UserError, match="no prompts"):
        source_of(model(), prompts=[])
    with pytest.raises(ValueError, match="needs a critic"):
        source_of(model(), algorithm="ppo")
    with pytest.raises(ValueError, match="needs a reference"):
        rollouts_module.RolloutSource(
            None, model(), PROMPTS, len, END, {}, ALGORITHMS["reinforce"], source_of(model()).config, kl=KLConfig()
        )


def test_forwards_of_any_size_score_alike():
    samples = ragged()
    found = []
    for size in (1, 4, 64):
        source = source_of(actor(), algorithm="ppo", kl=KLConfig(), reference=model(seed=5), forward=size)
        found.append(source.score(samples)[0])
    for other in found[1:]:
        for name in ("logps", "ref_logps", "values", "advantages"):
            assert torch.allclose(getattr(other, name), getattr(found[0], name), atol=1e-4), name


def test_gradients_reach_all_but_the_reference():
    module = actor()
    source = source_of(module, algorithm="ppo", kl=KLConfig(coef=0.1, where="loss"), reference=model(seed=5))
    before = [p.detach().clone() for p in source.reference.parameters()]
    trained(module, source, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, source.reference.parameters()))
    assert all(p.grad is None for p in source.reference.parameters())
