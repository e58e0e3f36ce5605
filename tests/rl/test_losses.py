"""Policy-gradient losses: both sides of each clip, no gradient outside answers, metrics within their ranges."""

import math

import pytest
import torch
from learn.toys import FAMILIES, V, actor_critic, model, rollouts

from pronk.data.batch import IGNORE, Rollouts
from pronk.models import logps as head_math
from pronk.models.heads import Head, Output
from pronk.rl.kl import KLConfig
from pronk.rl.losses import (
    ClipConfig,
    clipped,
    clipped_answers,
    clipped_surrogate,
    clipped_value,
    clipped_with_value,
    drift,
    policy_gradient,
    weigh,
)

ONE = torch.ones(1, 1)


def surrogate(ratio, advantage, clip=0.2):
    """The loss of one token with this ratio, and its derivative in the new log-probability by finite differences."""

    def at(change):
        new = torch.tensor([[math.log(ratio) + change]], dtype=torch.float64)
        return clipped_surrogate(new, torch.zeros_like(new), advantage * ONE.double(), ONE.double(), ClipConfig(clip))

    slope = (at(1e-6)[0] - at(-1e-6)[0]).item() / 2e-6
    total, metrics = at(0.0)
    return total.item(), slope, metrics["policy/clipfrac"].total.item()


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("ratio", [0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 3.0])
def test_policy_clip_takes_the_worse_of_both_surrogates(advantage, ratio):
    """The gradient is cut only where the ratio is too far in the direction that the advantage asks for (pitfall 16)."""
    total, slope, clipped = surrogate(ratio, advantage)
    held = min(max(ratio, 0.8), 1.2)
    assert total == pytest.approx(-min(ratio * advantage, held * advantage), rel=1e-9)
    too_far = ratio > 1.2 if advantage > 0 else ratio < 0.8
    assert slope == pytest.approx(0.0 if too_far else -advantage * ratio, rel=1e-4, abs=1e-9)
    assert clipped == float(too_far)


@pytest.mark.parametrize("value", [-1.0, 0.25, 0.35, 0.45, 0.75, 2.0])
@pytest.mark.parametrize("target", [-2.0, 0.4, 0.72, 3.0])
def test_value_clip_takes_the_worse_of_both_errors(value, target):
    """Old value 0.5, clip 0.2; slope by finite differences (pitfall 16)."""

    def at(v):
        batch = Rollouts(ONE.long(), ONE.long(), values=0.5 * ONE.double(), returns=target * ONE.double())
        output = Output(torch.zeros(1, 1, 1), None, values=v * ONE.double())
        return clipped_value(output, batch, ONE.double(), ClipConfig(value=0.2))[0].item()

    near = min(max(value, 0.3), 0.7)
    assert at(value) == pytest.approx(0.5 * max((value - target) ** 2, (near - target) ** 2), rel=1e-5)
    slope = (at(value + 1e-2) - at(value - 1e-2)) / 2e-2
    frozen = near != value and abs(near - target) > abs(value - target) + 1e-2
    assert slope == pytest.approx(0.0 if frozen else value - target, abs=1e-2)


def test_value_clip_zero_is_off():
    batch = Rollouts(ONE.long(), ONE.long(), values=0.0 * ONE, returns=5 * ONE)
    output = Output(torch.zeros(1, 1, 1), None, values=4 * ONE)
    total, metrics = clipped_value(output, batch, ONE, ClipConfig(value=0.0))
    assert total.item() == 0.5
    assert metrics["value/clipfrac"].total == 0


IN_LOSS = KLConfig(coef=0.3, where="loss")
MAKERS = {
    "reinforce": lambda kl: policy_gradient(0.7, kl),
    "ppo": lambda kl: clipped_with_value(0.7, kl=kl),
    "rloo": lambda kl: clipped_answers(0.7, kl=kl),
    "grpo": lambda kl: clipped(0.7, kl=kl, aggregate="answers"),
    "dr-grpo": lambda kl: clipped(0.7, kl=kl, aggregate="constant", longest=10),
}
LOSSES = {name: make(IN_LOSS) for name, make in MAKERS.items()}


@pytest.mark.parametrize("loss", LOSSES)
def test_prompt_and_padding_carry_no_gradient(loss):
    """The gradient in logits, values and stored numbers is 0 wherever the target is ignored (pitfall 11)."""
    module, batch = actor_critic(), rollouts(pad=3)
    output = module(**batch.inputs())
    hidden = output.hidden.detach().requires_grad_()
    values = output.values.detach().requires_grad_()
    total, _, _ = LOSSES[loss](output._replace(hidden=hidden, values=values), batch)
    total.backward()
    learned = batch.targets != IGNORE
    assert hidden.grad[~learned].abs().max() == 0
    assert (hidden.grad[learned].abs().sum(-1) > 0).all()
    if loss == "ppo":
        assert values.grad[~learned].abs().max() == 0
        assert values.grad[learned].abs().max() > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_garbage_under_ignored_targets_changes_nothing(loss):
    module, batch, dirty = actor_critic(), rollouts(pad=3), rollouts(pad=3)
    for name in ("logps", "ref_logps", "advantages", "values", "returns"):
        getattr(dirty, name)[dirty.targets == IGNORE] = 1e3
    clean = LOSSES[loss](module(**batch.inputs()), batch)
    other = LOSSES[loss](module(**dirty.inputs()), dirty)
    assert other[0].item() == pytest.approx(clean[0].item(), rel=1e-6)
    assert other[1] == clean[1]
    for name, metric in clean[2].items():
        assert other[2][name][0].item() == pytest.approx(metric[0].item(), rel=1e-5, abs=1e-6), name


def test_reinforce_is_advantage_times_log_probability_over_sequences():
    """Against a loop over tokens; count = sequences, so that a long answer is not worth less a token."""
    module, batch = model(), rollouts()
    output = module(**batch.inputs())
    total, count, _ = policy_gradient(0.7)(output, batch)
    logps = (output.head(output.hidden) / 0.7).log_softmax(-1)
    wanted = sum(
        -batch.advantages[b, t].item() * logps[b, t, batch.targets[b, t]].item()
        for b in range(len(batch))
        for t in range(batch.targets.shape[1])
        if batch.targets[b, t] != IGNORE
    )
    assert total.item() == pytest.approx(wanted, rel=1e-4)
    assert count == len(batch)


@pytest.mark.parametrize("loss", LOSSES)
def test_kl_in_the_loss_is_weighted_once(loss):
    """Twice the coefficient, twice the penalty; in the reward, none in the loss (pitfall 25)."""
    module, batch = actor_critic(), rollouts()

    def total(kl):
        return MAKERS[loss](kl)(module(**batch.inputs()), batch)[0].item()

    plain = total(None)
    for estimator in ("k2", "k3"):
        once, twice = (total(KLConfig(coef=c, where="loss", estimator=estimator)) - plain for c in (0.3, 0.6))
        gap = head_math.logps(module(**batch.inputs()), batch.targets, 0.7)[0] - batch.ref_logps
        each = gap**2 / 2 if estimator == "k2" else torch.exp(-gap) - 1 + gap
        mask = (batch.targets != IGNORE).float()
        weights = {"grpo": mask / mask.sum(1, keepdim=True), "dr-grpo": mask / 10}.get(loss, mask)
        assert once == pytest.approx(0.3 * (each * weights).sum().item(), rel=1e-4)
        assert twice == pytest.approx(2 * once, rel=1e-4)
    assert total(KLConfig(coef=0.3, where="reward")) == plain


@pytest.mark.parametrize("aggregate", ["tokens", "answers", "sum", "constant"])
def test_length_bias_is_the_stated_one(aggregate):
    """Two answers of 5 and 50 tokens with one advantage: what a token of each weighs in the mean (pitfall 32)."""
    mask = torch.zeros(2, 60)
    mask[0, 3:8], mask[1, 4:54] = 1.0, 1.0
    change = torch.zeros(2, 60, requires_grad=True)
    weights, count = weigh(mask, aggregate, longest=100)
    total, _ = clipped_surrogate(change, torch.zeros(2, 60), mask, mask, ClipConfig(), weights)
    (total / count).backward()
    short, long = -change.grad[0, 3].item(), -change.grad[1, 4].item()
    wanted = {"tokens": (1 / 55, 1 / 55), "answers": (0.1, 0.01), "sum": (0.5, 0.5), "constant": (0.005, 0.005)}
    assert (short, long) == pytest.approx(wanted[aggregate], rel=1e-6)
    assert change.grad[mask == 0].abs().max() == 0


def test_answers_without_a_learned_token_do_not_count():
    mask = torch.tensor([[0, 1, 1], [0, 0, 0], [1, 0, 0.0]])
    assert [weigh(mask, name, 9)[1].item() for name in ("tokens", "answers", "sum", "constant")] == [3, 2, 2, 2]


@pytest.mark.parametrize("ratio", [0.7, 0.79, 0.81, 1.19, 1.21, 1.27, 1.29])
def test_clip_higher_gives_only_good_tokens_more_room(ratio):
    """DAPO: 0.8 below, 1.28 above."""
    clip = ClipConfig(0.2, ratio_high=0.28)
    for advantage in (1.0, -1.0):
        new = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
        total, _ = clipped_surrogate(new, torch.zeros_like(new), advantage * ONE.double(), ONE.double(), clip)
        total.backward()
        cut = ratio > 1.28 if advantage > 0 else ratio < 0.8
        assert new.grad.item() == pytest.approx(0.0 if cut else -advantage * ratio, abs=1e-9)


def test_rloos_ratio_is_that_of_the_whole_answer():
    """The product over tokens, not their mean: 1 where both policies are one, else exp(sum) (pitfall 37)."""
    module, batch = model(), rollouts()
    with torch.no_grad():
        output = module(**batch.inputs())
        batch.logps = head_math.logps(output, batch.targets, 0.7)[0]
        mask = (batch.targets != IGNORE).float()
        batch.advantages = torch.arange(1.0, 7)[:, None] * mask
        loss = clipped_answers(0.7)
        total, count, metrics = loss(output, batch)
        assert count == 6
        assert total.item() == pytest.approx(-21.0, rel=1e-5)
        assert metrics["policy/ratio_max"].value == pytest.approx(1, abs=1e-5)
        shift = 0.05 * mask  # each token 5 % likelier: answers of 4, 2, 6, 1, 3, 5 tokens
        batch.logps = batch.logps - shift
        total, _, metrics = loss(output, batch)
    lengths = (4, 2, 6, 1, 3, 5)
    wanted = -sum(a * min(math.exp(0.05 * n), 1.2) for a, n in enumerate(lengths, 1))
    assert total.item() == pytest.approx(wanted, rel=1e-4)
    clipfrac = metrics["policy/clipfrac"]
    assert clipfrac.total / clipfrac.weight == pytest.approx(3 / 6)  # of answers: those of 4, 6 and 5 tokens


def test_rloo_on_policy_is_reinforce():
    """At ratio 1 both have the same gradient."""
    module, batch = model(), rollouts()
    mask = (batch.targets != IGNORE).float()
    batch.advantages = torch.arange(-2.0, 4)[:, None] * mask
    batch.fresh = True
    found = []
    for loss in (clipped_answers(0.7), policy_gradient(0.7)):
        module.zero_grad()
        total, count, _ = loss(module(**batch.inputs()), batch)
        (total / count).backward()
        found.append({name: p.grad.clone() for name, p in module.named_parameters()})
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-5) for name in found[0])


@pytest.mark.parametrize("loss", ["ppo", "rloo", "grpo", "dr-grpo"])
def test_a_fresh_round_has_the_gradient_of_ratio_one(loss):
    """Whatever the engine noted, old log-probabilities are this forward's; the noted ones are only compared."""
    module, batch = actor_critic(), rollouts()
    with torch.no_grad():
        exact = head_math.logps(module(**batch.inputs()), batch.targets, 0.7)[0]
    noted, grads = batch.logps, []
    for fresh, logps in ((True, noted), (False, exact)):
        batch.fresh, batch.logps = fresh, logps
        module.zero_grad()
        total, _, metrics = MAKERS[loss](None)(module(**batch.inputs()), batch)
        total.backward()
        grads.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]))
        assert (metrics["policy/ratio_max"].value > 1.1) == fresh  # what tells of a wrong engine
    assert torch.allclose(grads[0], grads[1], atol=1e-4)


ENTROPIC = {
    "reinforce": lambda coef: policy_gradient(0.7, entropy=coef),
    "ppo": lambda coef: clipped(0.7, critic=True, entropy=coef),
    "rloo": lambda coef: clipped_answers(0.7, entropy=coef),
    "grpo": lambda coef: clipped(0.7, aggregate="answers", entropy=coef),
}


@pytest.mark.parametrize("name", ENTROPIC)
def test_the_entropy_bonus_is_each_tokens_entropy_by_its_weight(name):
    """Against the distributions written out; its gradient makes the policy less sure (Schulman et al. 2017, eq. 9)."""
    module, batch = actor_critic(), rollouts(pad=3)
    output, mask = module(**batch.inputs()), (batch.targets != IGNORE).float()
    chances = (output.head(output.hidden) / 0.7).softmax(-1)
    entropy = -(chances * chances.log()).sum(-1)
    weights, _ = weigh(mask, "answers" if name == "grpo" else "tokens")
    plain, open_ = (ENTROPIC[name](coef)(output, batch)[0] for coef in (0.0, 0.3))
    assert open_.item() == pytest.approx(plain.item() - 0.3 * (entropy * weights).sum().item(), rel=1e-4)
    found = torch.autograd.grad(open_ - plain, output.hidden, retain_graph=True)[0]
    wanted = torch.autograd.grad(-0.3 * (entropy * weights).sum(), output.hidden)[0]
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_dense_rows_give_the_same_loss(loss):
    """On a GPU ignored places are computed too and left out by weight, so that the device is asked nothing."""
    module, found = actor_critic(), []
    for dense in (False, True):
        batch = rollouts(pad=3)
        batch.dense = dense
        module.zero_grad()
        total, count, metrics = LOSSES[loss](module(**batch.inputs()), batch)
        total.backward()
        grads = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
        found.append((total.item(), count.item(), grads, metrics))
    (total, count, grads, metrics), (other, count_too, grads_too, metrics_too) = found
    assert (other, count_too) == (pytest.approx(total, rel=1e-5), count)
    assert torch.allclose(grads, grads_too, atol=1e-4)
    for name, metric in metrics.items():
        assert metrics_too[name][0].item() == pytest.approx(metric[0].item(), rel=1e-4, abs=1e-6), name


def test_temperature_divides_the_logits():
    """Log-probabilities and entropy are those of softmax(logits / T) (pitfall 3)."""
    module, batch = model(), rollouts()
    output = module(**batch.inputs())
    found, entropy = head_math.logps(output, batch.targets, 0.7)
    chances = (output.head(output.hidden).double() / 0.7).softmax(-1)
    for b, t in (batch.targets != IGNORE).nonzero().tolist():
        row = chances[b, t]
        assert found[b, t].item() == pytest.approx(row[batch.targets[b, t]].log().item(), abs=1e-5)
        assert entropy[b, t].item() == pytest.approx(-(row * row.log()).sum().item(), abs=1e-5)


def test_log_softmax_is_float32_under_bf16():
    """A bfloat16 head gives log-probabilities of its own logits to float32 accuracy (pitfall 38)."""
    module, batch = model(), rollouts()
    with torch.autocast("cpu", torch.bfloat16):
        output = module(**batch.inputs())
        found, _ = head_math.logps(output, batch.targets)
        logits = output.head(output.hidden)
    assert logits.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    wanted = logits.double().log_softmax(-1)
    for b, t in (batch.targets != IGNORE).nonzero().tolist():
        assert found[b, t].item() == pytest.approx(wanted[b, t, batch.targets[b, t]].item(), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_exact_kl_is_zero_at_home_and_positive_elsewhere(family):
    batch = rollouts()
    with torch.no_grad():
        ours, same, other = (model(family, seed)(**batch.inputs()) for seed in (0, 0, 1))
    learned = batch.targets != IGNORE
    for kl in head_math.exact_kl(ours, same, batch.targets, 0.7):
        assert kl.abs().max() < 1e-6
    for kl in head_math.exact_kl(ours, other, batch.targets, 0.7):
        assert kl[learned].min() > 0
        assert kl[~learned].abs().max() == 0


def test_a_uniform_policy_has_the_highest_entropy():
    head = Head(V, 4)
    torch.nn.init.zeros_(head.weight)
    targets = torch.zeros(1, 3, dtype=torch.long)
    found, entropy = head_math.logps(Output(torch.randn(1, 3, 4), head), targets)
    assert entropy.flatten().tolist() == pytest.approx([math.log(V)] * 3)
    assert found.flatten().tolist() == pytest.approx([-math.log(V)] * 3)


def test_early_stop_speaks_up_beyond_its_limit():
    """`stop` > 0 once the policy is stop_kl away per token; 0 = never."""
    far, same = torch.full((2, 3), 0.5), torch.zeros(2, 3)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0.0]])
    kl = math.exp(0.5) - 1 - 0.5  # k3 of samples from the old policy

    def stop(new, limit):
        metric = drift(new, same, mask, limit).get("stop")
        return None if metric is None else (metric.total / metric.weight).item()

    assert stop(far, 0.1) == pytest.approx(kl - 0.1, rel=1e-5)
    assert stop(far, 0.2) < 0
    assert stop(same, 0.1) < 0
    assert stop(far, 0.0) is None
