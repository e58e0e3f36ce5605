"""The Triton kernels of log-probabilities and entropies against plain math, in Triton's interpreter: no GPU needed."""

import pytest
import torch

from models.interpret import DEVICE  # before any kernel

# isort: split
from pronk.models import kernels_logps, logps
from pronk.models.heads import Head


@pytest.mark.parametrize("vocab", [7, 1000, 40_000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_are_the_plain_math(vocab, temperature, dtype):
    torch.manual_seed(0)
    logits, targets = (5 * torch.randn(6, vocab)).to(DEVICE, dtype), torch.randint(vocab, (6,)).to(DEVICE)
    wanted = torch.randn(2, 6).to(DEVICE)
    plain = logits.float().requires_grad_()
    all_logps = (plain / temperature).log_softmax(-1)
    chosen, entropy = all_logps.gather(1, targets[:, None])[:, 0], -(all_logps.exp() * all_logps).sum(-1)
    (chosen @ wanted[0] + entropy @ wanted[1]).backward()
    found = kernels_logps.read(logits, targets, temperature)
    assert torch.allclose(found[0], chosen, atol=1e-5, rtol=1e-5)
    assert torch.allclose(found[1], entropy, atol=1e-5, rtol=1e-5)
    kernels_logps.spend(logits, targets, found, wanted, temperature)
    assert torch.allclose(logits.float(), plain.grad, atol=1e-5 if dtype == torch.float32 else 4e-2)


@pytest.mark.parametrize("biased", [False, True])
def test_chunks_of_a_head_give_the_plain_gradients(biased, monkeypatch):
    """In float32, tokens over several chunks; the head without tokens too."""
    torch.manual_seed(0)
    monkeypatch.setattr(logps, "CHUNK", 64 * 3)
    monkeypatch.setattr(logps, "GPU_CHUNK", 64 * 3)
    hidden = torch.randn(8, 16, device=DEVICE)
    targets = torch.randint(64, (8,), device=DEVICE)
    head = Head(64, 16, biased=biased).to(DEVICE)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    wanted = torch.randn(2, 8, device=DEVICE)

    def gradients(results, inputs):
        (results[0] @ wanted[0] + results[1] @ wanted[1]).backward()
        found = [inputs.grad, *(p.grad for p in head.parameters())]
        head.zero_grad(set_to_none=True)
        return found

    ours, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    fused = logps._Logps.apply(ours, head.weight, head.bias, targets, 0.7)
    all_logps = (head(theirs) / 0.7).log_softmax(-1)
    plain = all_logps.gather(1, targets[:, None])[:, 0], -(all_logps.exp() * all_logps).sum(-1)
    for a, b in zip((*fused, *gradients(fused, ours)), (*plain, *gradients(plain, theirs))):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-4)


def test_no_rows_are_no_work():
    head = Head(5, 4).to(DEVICE)
    torch.nn.init.normal_(head.weight)
    hidden, none = torch.zeros(0, 4, device=DEVICE), torch.zeros(0, dtype=torch.int64, device=DEVICE)
    found = logps._Logps.apply(hidden, head.weight, None, none, 1.0)
    assert [x.shape for x in found] == [(0,), (0,)]
