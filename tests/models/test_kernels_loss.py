"""The Triton loss kernel against the plain one, in Triton's interpreter: no GPU needed."""

import pytest
import torch

from models.interpret import DEVICE  # before any kernel

# isort: split
from pronk.models import kernels_loss, logps


@pytest.mark.parametrize("vocab", [7, 1000, 40_000, 70_000])
@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_is_the_plain_loss(vocab, keeps, dtype):
    torch.manual_seed(0)
    logits, targets = (5 * torch.randn(6, vocab)).to(DEVICE, dtype), torch.randint(vocab, (6,)).to(DEVICE)
    keep = torch.tensor([True, False, True, True, False, True]).to(DEVICE) if keeps else None
    plain, fused, untouched = logits.clone(), logits.clone(), logits.clone()
    wanted = logps._spend(plain, targets, keep, True)
    assert torch.allclose(kernels_loss.spend(fused, targets, keep, True), wanted, atol=1e-5, rtol=1e-5)
    assert torch.allclose(fused.float(), plain.float(), atol=1e-6 if dtype == torch.float32 else 4e-3)
    assert torch.allclose(kernels_loss.spend(untouched, targets, keep, False), wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(untouched, logits)


def test_targets_of_any_chance_are_exact():
    """Of logits so far apart that exp of their differences leaves float32, and of a target that is nearly certain."""
    logits = torch.zeros(4, 300, device=DEVICE)
    logits[0, 7], logits[1, 7], logits[2, 7], logits[3, 7] = 500.0, -500.0, 85.0, -85.0
    targets = torch.tensor([3, 7, 7, 7], device=DEVICE)
    plain, fused = logits.clone(), logits.clone()
    wanted = logps._spend(plain, targets, None, True)
    assert torch.allclose(kernels_loss.spend(fused, targets, None, True), wanted, atol=1e-6, rtol=1e-6)
    assert torch.allclose(fused, plain, atol=1e-6)


def test_no_rows_are_no_work():
    assert kernels_loss.spend(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), None, True).shape == (0,)


@pytest.mark.parametrize("wants", [False, True])
def test_rows_may_be_the_first_columns_of_wider_ones(wants):
    """Of what lies beside them only what is read together with the last column changes, to zeros."""
    torch.manual_seed(0)
    wide, targets = torch.randn(6, 80).to(DEVICE), torch.randint(50, (6,)).to(DEVICE)
    plain = wide.clone()
    wanted = logps._spend(plain[:, :50], targets, None, wants)
    if wants:
        plain[:, 50:64] = 0
    assert torch.allclose(kernels_loss.spend(wide[:, :50], targets, None, wants), wanted, atol=1e-5)
    assert torch.allclose(wide, plain, atol=1e-6)
