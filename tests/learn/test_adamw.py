"""AdamW in one pass is torch's AdamW, in Triton's interpreter where there is no GPU."""

import pytest
import torch
from models.interpret import DEVICE  # before any kernel

# isort: split
from pronk.learn.adamw import OnePass


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
