"""One step: the same gradient however the batch is cut, skips that leave no trace, groups with rates of their own."""

import dataclasses
import math

import pytest
import torch

from pronk.data.batch import IGNORE, Max, Mean
from pronk.errors import UserError
from pronk.learn import learner as learner_module
from pronk.learn.learner import ENOUGH, LOST, PATIENCE, Learner
from pronk.learn.losses import cross_entropy, dpo
from pronk.models.heads import ActorCritic
from pronk.rl.kl import KLConfig
from pronk.rl.losses import ClipConfig, clipped, clipped_answers, clipped_with_value, policy_gradient

from .toys import FAMILIES, PLAIN, D, actor_critic, gap, learner, model, pairs, rollouts, text, weights

SGD = dataclasses.replace(PLAIN, optimizer="sgd", lr=1.0, momentum=0.0)
IN_LOSS = KLConfig(coef=0.1, where="loss")
CASES = {
    "cross-entropy": (text, cross_entropy, model),
    "dpo": (pairs, dpo(0.3), model),
    "reinforce": (rollouts, policy_gradient(0.7, IN_LOSS), model),
    "rloo": (rollouts, clipped_answers(0.7, kl=IN_LOSS), model),
    "grpo": (rollouts, clipped(0.7, kl=IN_LOSS, aggregate="answers"), model),
    "ppo": (rollouts, clipped_with_value(0.7, ClipConfig(), IN_LOSS), actor_critic),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES)
def test_gradients_do_not_depend_on_micro_batches_or_padding(case, family):
    """A step of SGD with rate 1 moves the weights by the gradient: 1 x all, n x 1, uneven parts, 100 pad columns."""
    batch, loss, make = CASES[case]
    start = weights(make(family))
    found = {}
    for micro_batch, pad in ((0, 0), (1, 0), (3, 0), (0, 100), (2, 100)):
        module = make(family)
        metrics = learner(module, SGD, micro_batch=micro_batch).step(batch(pad=pad), loss)
        found[micro_batch, pad] = (weights(module), metrics)
    moved, told = found.pop((0, 0))
    assert gap(moved, start) > 1e-2
    norm = math.sqrt(sum(((moved[n] - start[n]) ** 2).sum().item() for n in start))
    for where, (other, metrics) in found.items():
        assert gap(moved, other) < 1e-6 * max(1, norm), where
        assert metrics == pytest.approx(told, abs=1e-5, rel=1e-5), where


def test_bf16_computes_in_bfloat16_and_keeps_float32_weights():
    module = model()
    seen = []

    def loss(output, batch):
        seen.append(output.head(output.hidden).dtype)
        return cross_entropy(output, batch)

    full = learner(model()).step(text(), cross_entropy)
    half = learner(module, precision="bf16").step(text(), loss)
    assert seen == [torch.bfloat16]
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert half["loss"] == pytest.approx(full["loss"], abs=0.05)
    assert half["loss"] != full["loss"]


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_trainable_tensor_moves(family, optimizer):
    module = actor_critic(family)
    before = weights(module)
    config = dataclasses.replace(PLAIN, optimizer=optimizer)
    learner(module, {"policy.": config, "critic.": config}).step(rollouts(), clipped_with_value())
    after = weights(module)
    read = {n for n in before if not n.endswith("critic.body.head.weight")}
    assert [n for n in read if torch.equal(before[n], after[n])] == []


def test_every_parameter_of_a_group_belongs_to_an_optimizer():
    for optimizer in ("adamw", "muon", "sgd"):
        group = learner(model(), dataclasses.replace(PLAIN, optimizer=optimizer)).groups[0]
        held = [p for o in group.optimizers for g in o.param_groups for p in g["params"]]
        assert {id(p) for p in held} == {id(p) for p in group.parameters.values()}
        assert len(held) == len(group.parameters) > 0


def snapshot(trained):
    tensors, _ = trained.state()
    return {name: t.clone() for name, t in tensors.items() if not name.startswith("random.")}


def stopping(output, batch):
    total, count, metrics = cross_entropy(output, batch)
    return total, count, metrics | {"stop": Mean(torch.tensor(1.0), torch.tensor(1.0))}


def endless(output, batch):
    total, count, metrics = cross_entropy(output, batch)
    return total + torch.tensor(float("inf")), count, metrics


def broken_gradient(output, batch):
    """A finite loss whose gradient is not a number: sqrt at 0."""
    total, count, metrics = cross_entropy(output, batch)
    return total + (output.hidden * 0).sum().abs().sqrt(), count, metrics


@pytest.mark.parametrize("loss", [stopping, endless, broken_gradient])
def test_a_skipped_step_leaves_weights_and_optimizer_alone(loss):
    """Adam moves weights even at zero gradients, so its step must not be called (pitfall 18)."""
    trained = learner(model())
    for _ in range(3):
        trained.step(text(), cross_entropy)
    before = snapshot(trained)
    assert any(name.endswith("exp_avg") for name in before)
    found = trained.step(text(seed=1), loss)
    assert found["skipped"] == 1
    assert found["stopped"] == float(loss is stopping)
    after = snapshot(trained)
    assert [n for n in before if not torch.equal(before[n], after[n])] == []
    assert (trained.steps, trained.skipped) == (4, 1)
    assert all(p.grad is None for p in trained.model.parameters())
    assert trained.step(text(), cross_entropy)["skipped"] == 0
    assert gap(snapshot(trained), before) > 0


def test_a_stop_below_zero_does_not_stop():
    def loss(output, batch):
        total, count, metrics = cross_entropy(output, batch)
        return total, count, metrics | {"stop": Mean(torch.tensor(-1.0), torch.tensor(1.0))}

    found = learner(model()).step(text(), loss)
    assert found["skipped"] == found["stopped"] == 0
    assert "stop" not in found


def scaled(factor):
    def loss(output, batch):
        total, count, metrics = cross_entropy(output, batch)
        return total * factor, count, metrics

    return loss


def settled(**keys):
    """A learner that hardly moves and has seen enough ordinary steps to know a spike."""
    trained = learner(model(), dataclasses.replace(SGD, lr=1e-6), spike=6.0, **keys)
    for seed in range(ENOUGH):
        assert trained.step(text(seed=seed % 5), cross_entropy)["skipped"] == 0
    return trained


def test_a_spike_is_skipped_and_the_run_goes_on():
    trained = settled()
    before = weights(trained.model)
    assert trained.step(text(), scaled(20.0))["skipped"] == 1
    assert gap(weights(trained.model), before) == 0
    assert trained.step(text(), cross_entropy)["skipped"] == 0
    assert trained.skipped_in_a_row == 0
    assert gap(weights(trained.model), before) > 0


def test_what_spikes_again_and_again_is_accepted():
    """After PATIENCE skips in a row it is the new normal."""
    trained = settled()
    assert [trained.step(text(), scaled(20.0))["skipped"] for _ in range(PATIENCE + 1)] == [1.0] * PATIENCE + [0.0]


def test_non_finite_steps_are_never_accepted():
    trained = learner(model(), spike=6.0)
    before = weights(trained.model)
    assert all(trained.step(text(), endless)["skipped"] for _ in range(PATIENCE + 3))
    assert gap(weights(trained.model), before) == 0


def test_a_run_that_stands_still_ends():
    trained = learner(model())
    assert all(trained.step(text(), scaled(math.inf))["skipped"] for _ in range(LOST - 1))
    with pytest.raises(UserError, match=r"no step was taken in the last 50: loss inf.*lower optim.lr"):
        trained.step(text(), scaled(math.inf))


def test_six_sigma_is_where_a_spike_begins():
    trained = learner(model(), spike=6.0)
    values = [1.0, 3.0] * (ENOUGH // 2)  # mean 2, deviation 1
    trained.history = {"objective": learner_module.deque(values)}
    assert 7.99 < trained._limit("objective") < 8.01
    trained.history = {"objective": learner_module.deque(values[1:])}  # one step too few to judge
    assert trained._limit("objective") == math.inf


def test_groups_have_their_own_rate_clip_and_norm():
    policy = dataclasses.replace(SGD, lr=0.5, clip=0.01, schedule="linear", final=0.0)
    critic = dataclasses.replace(SGD, lr=0.25, clip=0.02)
    module = actor_critic()
    before = weights(module)
    trained = learner(module, {"policy.": policy, "critic.": critic}, steps=3)
    found = trained.step(rollouts(), clipped_with_value())
    after = weights(module)
    for name, rate, limit in (("policy", 0.5, 0.01), ("critic", 0.25, 0.02)):
        moved = math.sqrt(sum(((after[n] - before[n]) ** 2).sum().item() for n in before if n.startswith(name)))
        assert moved == pytest.approx(rate * limit, rel=1e-3)
        assert found[f"{name}/lr"] == rate
    assert found["policy/grad_norm"] != found["critic/grad_norm"]
    alone = actor_critic()  # the norm is that of the group's own gradient
    total, count, _ = clipped_with_value()(alone(rollouts().tokens), rollouts())
    (total / count).backward()
    norm = torch.cat([p.grad.flatten() for p in alone.policy.parameters()]).norm().item()
    assert found["policy/grad_norm"] == pytest.approx(norm, rel=1e-5)
    second = trained.step(rollouts(), clipped_with_value())
    assert (second["policy/lr"], second["critic/lr"]) == (0.25, 0.25)


def test_the_longest_prefix_takes_a_parameter():
    trained = learner(actor_critic(), {"": PLAIN, "critic.": PLAIN, "critic.value.": PLAIN})
    held = [set(group.parameters) for group in trained.groups]
    assert held[2] == {"critic.value.weight", "critic.value.bias"}
    assert all(n.startswith("critic.body.") for n in held[1])
    assert all(n.startswith("policy.") for n in held[0])


def test_a_parameter_outside_all_groups_is_an_error():
    with pytest.raises(ValueError, match=r"critic\.body.* none of the groups"):
        learner(actor_critic(), {"policy.": PLAIN})


def test_an_empty_group_is_an_error():
    with pytest.raises(ValueError, match="'critic/'"):
        learner(model(), {"": PLAIN, "critic.": PLAIN})


def test_a_tied_parameter_is_moved_and_saved_once():
    trained = learner(model(tied=True))
    names = [n for n, p in trained.model.named_parameters(remove_duplicate=False) if p is trained.model.embed.weight]
    assert names == ["embed.weight", "head.weight"]
    assert "embed.weight" in trained.groups[0].parameters
    assert "head.weight" not in trained.groups[0].parameters
    before = trained.model.embed.weight.detach().clone()
    trained.step(text(), cross_entropy)
    assert trained.model.head.weight is trained.model.embed.weight
    moved = (trained.model.embed.weight - before).abs().max().item()
    assert moved == pytest.approx(PLAIN.lr, rel=1e-2)  # Adam's first step, taken once
    assert [n for n in trained.state()[0] if n.startswith("model.") and "head" in n] == []


def test_a_frozen_parameter_is_untouched():
    module = model()
    module.blocks[0].requires_grad_(False)
    before = weights(module)
    config = dataclasses.replace(PLAIN, weight_decay=0.5)
    learner(module, config).step(text(), cross_entropy)
    after = weights(module)
    for name in before:
        assert torch.equal(before[name], after[name]) is name.startswith("blocks.0."), name


def test_a_shared_body_learns_from_policy_and_values():
    module = ActorCritic(model(), width=D)
    before = weights(module)
    found = learner(module, {"policy.": PLAIN, "critic.": PLAIN}).step(rollouts(), clipped_with_value())
    assert found["critic/grad_norm"] > 0
    assert [n for n, p in weights(module).items() if torch.equal(p, before[n])] == []


def test_an_all_ignored_batch_is_harmless():
    batch = text()
    batch.targets.fill_(IGNORE)
    module = model()
    before = weights(module)
    found = learner(module).step(batch, cross_entropy)
    assert found["loss"] == 0.0
    assert found["grad_norm"] == 0.0
    assert gap(weights(module), before) == 0


def test_means_are_weighted_and_maxima_are_maxima():
    def loss(output, batch):
        rows = torch.tensor(float(len(batch)))
        first = batch.tokens[0, 0].float()
        metrics = {"mean": Mean(first * rows, rows), "highest": Max(first)}
        return output.hidden.sum() * 0, rows, metrics

    batch = text()
    found = learner(model(), micro_batch=3).step(batch, loss)
    firsts = [int(batch.tokens[i, 0]) for i in (0, 3, 6)]
    assert found["mean"] == pytest.approx((3 * firsts[0] + 3 * firsts[1] + 2 * firsts[2]) / 8)
    assert found["highest"] == max(firsts)


def test_a_routers_balance_is_weighted_by_the_count():
    """Output.aux is added once for each counted item, so that dividing by the count leaves it as it was."""

    class WithAux(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = model()

        def forward(self, **inputs):
            output = self.body(**inputs)
            return output._replace(aux=self.body.norm.weight.sum())

    module, bare = WithAux(), model()
    learner(module, SGD, micro_batch=3).step(text(), cross_entropy)
    learner(bare, SGD, micro_batch=3).step(text(), cross_entropy)
    assert torch.allclose(module.body.norm.weight, bare.norm.weight - 1, atol=1e-6)


def test_state_survives_a_round_trip_with_its_types():
    trained = learner(model(), {"": PLAIN})
    trained.step(text(), cross_entropy)
    tensors, plain = trained.state()
    tensors = {k: v.clone() for k, v in tensors.items()}
    fresh = learner(model(seed=9))
    fresh.restore(tensors, plain)
    again, plain_again = fresh.state()
    assert plain_again == plain
    assert again.keys() == tensors.keys()
    for name in tensors:
        assert again[name].dtype == tensors[name].dtype, name
        assert torch.equal(again[name], tensors[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_restore_copies(family):
    """Training on after restore must not change what was restored from."""
    trained = Learner(model(family), PLAIN, 10)
    trained.step(text(), cross_entropy)
    tensors, plain = trained.state()
    kept = {k: v.clone() for k, v in tensors.items()}
    fresh = Learner(model(family, seed=3), PLAIN, 10)
    fresh.restore(kept, plain)
    copies = {k: v.clone() for k, v in kept.items()}
    fresh.step(text(), cross_entropy)
    assert all(torch.equal(kept[k], copies[k]) for k in kept)
