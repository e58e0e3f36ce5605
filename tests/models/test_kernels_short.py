"""Attention of short rows by Triton against torch's, in Triton's interpreter: no GPU needed."""

import pytest
import torch
import torch.nn.functional as F

from models.interpret import DEVICE  # before any kernel

# isort: split
from pronk.models import kernels_short

LOW = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # Triton's interpreter has no products of bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, LOW])
@pytest.mark.parametrize(("T", "K", "heads", "groups"), [(9, 48, 3, 3), (1, 16, 2, 1), (16, 8, 4, 2), (32, 64, 2, 2)])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_short_rows_attend_as_torch_does(T, K, heads, groups, scale, dtype):
    """Outputs and gradients, with heads that share their keys, and views in which a token's heads lie together."""
    torch.manual_seed(0)
    shapes = (heads, groups, groups)
    ours = [torch.randn(2, T, n, K, device=DEVICE).to(dtype).transpose(1, 2).requires_grad_() for n in shapes]
    theirs = [x.detach().float().requires_grad_() for x in ours]
    slopes = torch.randn(2, heads, T, K, device=DEVICE).to(dtype)
    found = kernels_short.attend(*ours, scale)
    wanted = F.scaled_dot_product_attention(*theirs, is_causal=True, scale=scale, enable_gqa=True)
    got = torch.autograd.grad(found, ours, slopes)
    asked = torch.autograd.grad(wanted, theirs, slopes.float())
    within = 1e-5 if dtype == torch.float32 else 3e-2 if LOW == torch.bfloat16 else 4e-3
    for one, other in zip((found, *got), (wanted, *asked)):
        assert (one.float() - other).abs().max() < within * max(1, other.abs().max())


def test_only_whole_rows_on_a_gpu_are_for_it():
    q = torch.zeros(1, 1, 9, 16)
    assert not kernels_short.fits(q, q) or DEVICE == "cuda"
    there, long = q.to("meta"), torch.zeros(1, 1, 33, 16)
    assert not kernels_short.fits(there, there)
    assert not kernels_short.fits(long.to(DEVICE), long.to(DEVICE))
    assert not kernels_short.fits(q.to(DEVICE), long.to(DEVICE))
