"""The Triton loss kernel against the plain one, in Triton's interpreter: no GPU needed."""

import os

import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it is first imported
pytest.importorskip("triton", reason="triton is not installed")
from pronk.models import logps, loss_kernel

interpreted = pytest.mark.skipif(os.environ["TRITON_INTERPRET"] != "1", reason="needs TRITON_INTERPRET=1")


@interpreted
@pytest.mark.parametrize("vocab", [7, 1000, 40_000])
@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_is_the_plain_loss(vocab, keeps, dtype):
    torch.manual_seed(0)
    logits, targets = (5 * torch.randn(6, vocab)).to(dtype), torch.randint(vocab, (6,))
    keep = torch.tensor([True, False, True, True, False, True]) if keeps else None
    plain, fused, untouched = logits.clone(), logits.clone(), logits.clone()
    wanted = logps._spend(plain, targets, keep, True)
    assert torch.allclose(loss_kernel.spend(fused, targets, keep, True), wanted, atol=1e-5, rtol=1e-5)
    assert torch.allclose(fused.float(), plain.float(), atol=1e-6 if dtype == torch.float32 else 4e-3)
    assert torch.allclose(loss_kernel.spend(untouched, targets, keep, False), wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(untouched, logits)


@interpreted
def test_no_rows_are_no_work():
    assert loss_kernel.spend(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), None, True).shape == (0,)
