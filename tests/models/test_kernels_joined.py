"""Joined products by Triton against layers of their own, in Triton's interpreter: no GPU needed."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.interpret import DEVICE  # before any kernel

# isort: split
from pronk.models import kernels_joined
from pronk.models.config import ModelConfig
from pronk.models.float8 import Float8Linear
from pronk.models.lora import Adapted, LoraConfig
from pronk.models.positions import Rotary, rotate


def close(found, wanted, within=1e-5):
    return all((a - b).abs().max() <= within * max(1, b.abs().max()) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("queries", "keys", "size"), [(3, 3, 8), (4, 1, 48), (2, 2, 64)])
@pytest.mark.parametrize("packed", [False, True])
def test_heads_turn_as_rotate_turns_them(queries, keys, size, packed):
    """Outputs and gradients of x and of each weight, for heads that share keys and rows with positions of their own."""
    torch.manual_seed(0)
    B, T, D = 2, 40, 12
    tables = Rotary(ModelConfig(vocab=9, width=D, heads=1, head_dim=size, context=64)).to(DEVICE)
    cosine, sine = tables(torch.randint(0, 64, (B, T), device=DEVICE) if packed else None, T)
    layers = [nn.Linear(D, n * size, bias=False, device=DEVICE) for n in (queries, keys, keys)]
    x = torch.randn(B, T, D, device=DEVICE, requires_grad=True)
    slopes = [torch.randn(B, n, T, size, device=DEVICE).transpose(1, 2) for n in (queries, keys, keys)]
    found = kernels_joined.heads(x, *layers, (cosine, sine), size)
    q, k, v = (layer(x).unflatten(-1, (-1, size)) for layer in layers)
    wanted = rotate(q, cosine, sine), rotate(k, cosine, sine), v
    inputs = [x, *(layer.weight for layer in layers)]
    assert close(found, wanted)
    assert close(torch.autograd.grad(found, inputs, slopes), torch.autograd.grad(wanted, inputs, slopes))


@pytest.mark.parametrize("inner", [6, 1500])
def test_a_gate_is_a_gate(inner):
    torch.manual_seed(0)
    gate, up = (nn.Linear(12, inner, bias=False, device=DEVICE) for _ in range(2))
    x = torch.randn(2, 5, 12, device=DEVICE, requires_grad=True)
    found, wanted = kernels_joined.gated(x, gate, up), F.silu(gate(x)) * up(x)
    slope, inputs = torch.randn_like(wanted), [x, gate.weight, up.weight]
    assert close([found], [wanted])
    assert close(torch.autograd.grad(found, inputs, slope), torch.autograd.grad(wanted, inputs, slope))


def test_only_plain_layers_in_compiled_code_on_a_gpu_are_joined(monkeypatch):
    """Adapters, 8 bits and biases keep products of their own, and so do a CPU and eager code."""
    there, plain = SimpleNamespace(is_cuda=True), nn.Linear(16, 16, bias=False)
    adapted = Adapted(nn.Linear(16, 16, bias=False), LoraConfig(rank=2), torch.Generator())
    assert not kernels_joined.fits(there, plain)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert kernels_joined.fits(there, plain, plain)
    assert not kernels_joined.fits(SimpleNamespace(is_cuda=False), plain)
    for other in (nn.Linear(16, 16), Float8Linear(16, 16, bias=False), adapted):
        assert not kernels_joined.fits(there, plain, other)
    monkeypatch.setattr(kernels_joined, "found", False)
    assert not kernels_joined.fits(there, plain)
