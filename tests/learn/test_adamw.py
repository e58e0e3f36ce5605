"""AdamW in one pass is torch's AdamW, in Triton's interpreter where there is no GPU."""

import dataclasses
from collections import defaultdict, deque

import pytest
import torch
from models.interpret import DEVICE  # before any kernel

# isort: split
from pronk.learn import adamw
from pronk.learn.adamw import OnePass
from pronk.learn.learner import ENOUGH
from pronk.learn.losses import cross_entropy
from pronk.learn.optim import Muon

from .test_learner import broken_gradient, endless, stopping
from .toys import PLAIN, Unasked, gap, learner, model, text, weights


@pytest.mark.parametrize("factor", [None, 0.3])
def test_one_pass_is_torchs_adamw(factor):
    torch.manual_seed(0)
    start = [torch.randn(5000, 2), torch.randn(7)]
    groups = [[x.clone().to(DEVICE).requires_grad_() for x in start] for _ in range(2)]
    betas = (0.9, 0.95)
    lr = torch.tensor(1e-2, device=DEVICE)
    ours = OnePass([{"params": groups[0][:1], "weight_decay": 0.1}, {"params": groups[0][1:]}], lr=1e-2, betas=betas)
    plain = torch.optim.AdamW(
        [{"params": groups[1][:1], "weight_decay": 0.1}, {"params": groups[1][1:]}], lr=1e-2, betas=betas
    )
    for group in ours.param_groups:
        group["lr"] = lr
    for step in range(5):
        lr.fill_(1e-2 / (step + 1))
        for group in plain.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        for one, other in zip(*groups):
            one.grad = torch.randn_like(one)
            other.grad = one.grad * (1.0 if factor is None else factor)
        ours.step(factor=None if factor is None else torch.tensor(factor, device=DEVICE))
        plain.step()
    for one, other in zip(*groups):
        assert torch.allclose(one, other, atol=1e-6, rtol=1e-5)
        for name in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.allclose(ours.state[one][name], plain.state[other][name].to(DEVICE), atol=1e-7, rtol=1e-5)


def test_a_factor_that_is_no_number_moves_nothing():
    weight = torch.randn(5000, device=DEVICE, requires_grad=True)
    one = OnePass([weight], lr=torch.tensor(1e-2, device=DEVICE))
    seen = []
    for factor in (1.0, float("nan"), 1.0):
        weight.grad = torch.ones_like(weight) * (1.0 if factor == factor else float("inf"))
        one.step(factor=torch.tensor(factor, device=DEVICE))
        seen.append([x.detach().clone() for x in (weight, *one.state[weight].values())])
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[1]))
    assert float(seen[2][1]) == 2 and not torch.equal(seen[1][0], seen[2][0])


def test_a_step_asks_the_device_nothing(monkeypatch):
    monkeypatch.setattr(adamw, "_move", defaultdict(lambda: lambda *given, **how: None))
    weights = [torch.randn(5000, 2, requires_grad=True), torch.randn(7, requires_grad=True)]
    one, factor = OnePass(weights, lr=torch.tensor(1e-2)), torch.tensor(0.5)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    with Unasked():
        one.step(factor=factor)
        one.step()
    assert [float(one.state[weight]["step"]) for weight in weights] == [2.0, 2.0]


def handed_over(trained):
    """The learner with optimizers as on a GPU, whose steps are taken before the host has read what became of them."""
    for group in trained.groups:
        for place, one in enumerate(group.optimizers):
            if not isinstance(one, Muon):
                keys = ("params", "weight_decay", "peak", "betas", "eps")
                group.optimizers[place] = OnePass([{k: g[k] for k in keys} for g in one.param_groups], lr=1.0)
            for inner in group.optimizers[place].param_groups:
                inner["lr"] = torch.tensor(inner["peak"])
        group.ahead = True
    trained.ahead = True
    return trained


@pytest.mark.skipif(DEVICE != "cpu", reason="tests/gpu_train.py has the GPU's own")
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_device_decides_as_the_host_does(optimizer):
    config = dataclasses.replace(PLAIN, optimizer=optimizer, clip=1.0, weight_decay=0.1, schedule="linear")
    losses = [cross_entropy, cross_entropy, stopping, cross_entropy, endless, broken_gradient, cross_entropy]
    ends = []
    for change in (handed_over, lambda trained: trained):
        trained = change(learner(model(), config, spike=6.0))
        told = [trained.step(text(seed=seed), loss) for seed, loss in enumerate(losses)]
        trained.settle()
        trained.history = {"objective": deque([0.0] * ENOUGH)}
        told.append(trained.step(text(), cross_entropy))
        trained.settle()
        ends.append((told, weights(trained.model), trained.skipped))
    assert [one["skipped"] for one in ends[0][0]] == [0, 0, 1, 0, 1, 1, 0, 1]
    assert gap(ends[0][1], ends[1][1]) < 1e-6 and ends[0][2] == ends[1][2] == 4
    for one, other in zip(ends[0][0], ends[1][0]):
        assert one.keys() == other.keys() and one["stopped"] == other["stopped"]
        assert one["lr"] == other["lr"] and one["loss"] == pytest.approx(other["loss"], abs=1e-5)


@pytest.mark.skipif(DEVICE != "cpu", reason="as above")
def test_numbers_are_looked_at_a_step_later_at_the_latest():
    """The step before is settled while the next one's gradient is made; looking at once changes nothing."""
    losses, ends = [cross_entropy, endless, cross_entropy, broken_gradient, cross_entropy], []
    for at_once in (True, False):
        trained, told, skipped = handed_over(learner(model(), spike=6.0)), [], []
        for seed, loss in enumerate(losses):
            told.append(trained.step(text(seed=seed), loss))
            if at_once:
                assert told[-1]["loss"] != 0
            skipped.append(trained.skipped)
        plain = trained.state()[1]
        ends.append(([dict(one) for one in told], weights(trained.model), plain["history"], plain["skipped"]))
        assert skipped == ([0, 1, 1, 2, 2] if at_once else [0, 0, 1, 1, 2])
    (one, moved, *rest), (other, moved_too, *rest_too) = ends
    assert str(one) == str(other) and gap(moved, moved_too) == 0 and rest == rest_too and rest[1] == 2
