"""Schedules end where they are told, optimizers move as their papers say, clips clip."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch

from pronk.data.batch import IGNORE
from pronk.learn.learner import Learner
from pronk.learn.losses import cross_entropy
from pronk.learn.optim import Muon, OptimConfig, orthogonalize, schedule

from .toys import PLAIN, Unasked, gap, learner, model, text, weights


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd"])
@pytest.mark.parametrize(("warmup", "steps"), [(0, 10), (5, 50), (1, 3)])
def test_final_rate_is_the_configured_end_value(kind, warmup, steps):
    config = OptimConfig(schedule=kind, warmup=warmup, final=0.125)
    shares = [schedule(config, step, steps) for step in range(steps)]
    assert shares[-1] == pytest.approx(0.125, rel=1e-12)
    assert max(shares) == pytest.approx(1.0)
    assert all(a < b for a, b in pairwise(shares[:warmup]))
    assert all(a >= b for a, b in pairwise(shares[warmup:]))


def test_schedules_have_their_shapes():
    assert schedule(OptimConfig(warmup=4), 0, 100) == 0.25  # the first step moves already
    assert schedule(OptimConfig(warmup=4, schedule="constant"), 99, 100) == 1.0
    middle = OptimConfig(warmup=0, final=0.0)
    assert schedule(middle, 50, 101) == pytest.approx(0.5)  # cosine and linear are half way down at half time
    assert schedule(dataclasses.replace(middle, schedule="linear"), 25, 101) == pytest.approx(0.75)
    assert schedule(middle, 25, 101) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))
    late = OptimConfig(warmup=0, final=0.0, schedule="wsd", decay=0.2)
    assert [schedule(late, step, 101) for step in (0, 40, 80)] == pytest.approx([1.0, 1.0, 1.0])
    assert schedule(late, 90, 101) == pytest.approx(0.5)


def test_schedule_counts_optimizer_steps_not_micro_steps():
    config = dataclasses.replace(PLAIN, schedule="cosine", final=0.1)
    trained = learner(model(), config, steps=5, micro_batch=2)  # four micro-batches a step
    rates = [trained.step(text(), cross_entropy)["lr"] for _ in range(5)]
    assert rates[0] == pytest.approx(config.lr)
    assert rates[-1] == pytest.approx(0.1 * config.lr)
    assert rates == pytest.approx([config.lr * schedule(config, step, 5) for step in range(5)])


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6)])
def test_muon_is_torchs_muon(shape, monkeypatch):
    """torch's orthogonalises in bfloat16; with that cast taken away both agree to float32 rounding."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.float())
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for _ in range(3)]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    mine = Muon(ours, lr=0.05, momentum=0.9, weight_decay=0.2)
    peer = torch.optim.Muon(
        theirs, lr=0.05, momentum=0.9, weight_decay=0.2, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(4):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn(shape)
            b.grad = a.grad.clone()
        mine.step()
        peer.step()
    assert max((a - b).abs().max().item() for a, b in zip(ours, theirs)) < 1e-5


def test_muon_scales_gradients_and_moves_nothing_by_a_factor_that_is_no_number():
    torch.manual_seed(0)
    start = [torch.randn(6, 4), torch.randn(6, 4)]
    ours, plain = ([x.clone().requires_grad_() for x in start] for _ in range(2))
    one, other = (Muon(group, 0.05, momentum=0.9, weight_decay=0.2) for group in (ours, plain))
    one.param_groups[0]["lr"] = torch.tensor(0.05)
    for factor in (0.5, float("nan"), 2.0):
        for x, y in zip(ours, plain):
            x.grad = torch.randn_like(x) / (1.0 if factor == factor else 0.0)
            y.grad = x.grad * factor
        before = [x.detach().clone() for x in (*ours, *(one.state[x]["momentum"] for x in ours if one.state))]
        given = torch.tensor(factor)
        with Unasked():
            one.step(factor=given)
        if factor == factor:
            other.step()
        else:
            after = [*ours, *(one.state[x]["momentum"] for x in ours)]
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(ours, plain))


def test_orthogonalize_brings_singular_values_near_one():
    found = torch.linalg.svdvals(orthogonalize(torch.randn(4, 12, 30, generator=torch.Generator().manual_seed(0))))
    assert 0.5 < found.min() < found.max() < 1.5


def test_muon_moves_the_matrices_of_blocks_and_adam_the_rest():
    config = dataclasses.replace(PLAIN, optimizer="muon", lr=0.02, adam_lr=0.001)
    trained = Learner(model(tied=False), config, steps=10)
    muon, adam = trained.groups[0].optimizers
    names = {p: n for n, p in trained.model.named_parameters()}
    by_muon = {names[p] for group in muon.param_groups for p in group["params"]}
    by_adam = {names[p] for group in adam.param_groups for p in group["params"]}
    assert by_muon == {n for n, p in trained.model.named_parameters() if n.startswith("blocks.") and p.dim() == 2}
    assert by_muon | by_adam == set(names.values())
    assert not by_muon & by_adam
    before = weights(trained.model)
    trained.step(text(), cross_entropy)
    moved = {n: (p - before[n]).abs().max().item() for n, p in weights(trained.model).items()}
    assert 0 < moved["norm.weight"] <= 0.00101  # Adam's first step is its rate
    assert moved["blocks.0.feedforward.up.weight"] > 0.002


def test_first_adam_step_is_the_closed_form():
    """Step 1 after bias correction: w (1 - lr decay) - lr g / (|g| + eps) (eps as torch places it)."""
    config = OptimConfig(lr=0.01, warmup=0, schedule="constant", eps=1e-2, weight_decay=0.5, clip=0.0)
    module, batch = model(), text()
    count = (batch.targets != IGNORE).sum()
    (cross_entropy(module(batch.tokens), batch)[0] / count).backward()
    wanted = {}
    for name, p in module.named_parameters():
        decay = 0.5 if p.dim() >= 2 else 0.0
        wanted[name] = (p * (1 - 0.01 * decay) - 0.01 * p.grad / (p.grad.abs() + 1e-2)).detach()
    module.zero_grad(set_to_none=True)
    learner(module, config).step(batch, cross_entropy)
    assert gap(weights(module), wanted) < 1e-6


def test_gradient_clipping_really_happens():
    """SGD with a limit of 1e-9 leaves the weights where they were; without the clip they move."""
    plain = dataclasses.replace(PLAIN, optimizer="sgd", lr=1.0, momentum=0.0)
    for limit, moves in ((1e-9, False), (0.0, True)):
        module = model()
        before = weights(module)
        found = learner(module, dataclasses.replace(plain, clip=limit)).step(text(), cross_entropy)
        assert found["grad_norm"] > 0.1  # the norm before the clip is what is told
        assert (gap(weights(module), before) > 1e-3) is moves
        assert (gap(weights(module), before) < 1e-8) is not moves


def test_clip_scales_to_the_limit_and_leaves_small_gradients():
    plain = dataclasses.replace(PLAIN, optimizer="sgd", lr=1.0, momentum=0.0)
    moved = {}
    for limit in (0.0, 0.25, 1e6):
        module = model()
        before = weights(module)
        learner(module, dataclasses.replace(plain, clip=limit)).step(text(), cross_entropy)
        moved[limit] = math.sqrt(sum(((p - before[n]) ** 2).sum().item() for n, p in weights(module).items()))
    assert moved[0.25] == pytest.approx(0.25, rel=1e-4)
    assert moved[1e6] == pytest.approx(moved[0.0], rel=1e-6)
    assert moved[0.0] > 0.25
