"""What compiled blocks do another way than eager ones: packed documents seen by blocks, longer-lived kernels."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import flex_attention

from pronk.models import flex
from pronk.models.attention import attend, visible
from pronk.models.build import build
from pronk.models.config import ModelConfig
from pronk.models.feedforward import gelu
from pronk.models.lora import LoraConfig, attach

T = 512


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)


def packed(rows=2):
    """Positions and documents of rows that hold documents of 10 to 300 tokens."""
    borders = torch.randint(10, 300, (rows, 60)).cumsum(1)
    documents = torch.searchsorted(borders, torch.arange(T).expand(rows, -1).contiguous(), right=True)
    begins = torch.cat((torch.zeros(rows, 1, dtype=torch.int64), borders), 1).gather(1, documents)
    return torch.arange(T) - begins, documents


def slopes(model, *inputs):
    model.zero_grad()
    hidden = model(*inputs).hidden
    (hidden * torch.linspace(-1, 1, hidden.numel()).view(hidden.shape)).sin().sum().backward()
    return [hidden.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def near(found, wanted):
    return all((a - b).norm() <= 1e-5 * b.norm() + 1e-9 for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("shape", [{}, {"attention_bias": "all", "qk_norm": True}, {"lora": 2}])
def test_compiled_blocks_train_as_eager_ones(shape):
    shape = dict(shape)
    rank = shape.pop("lora", 0)
    model = build(ModelConfig(vocab=64, width=32, layers=3, heads=4, kv_heads=2, context=T, **shape), seed=0)
    attach(model, LoraConfig(rank))
    tokens = torch.randint(64, (2, 48))
    wanted = slopes(model, tokens)
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    assert near(slopes(model, tokens), wanted)


@pytest.mark.parametrize("window", [0, 1, 100, 128, 300, 1000])
@pytest.mark.parametrize("documents", [False, True])
def test_blocks_see_what_the_mask_sees(window, documents):
    _, numbers = packed(3)
    numbers = numbers if documents else None
    seen = flex.blocks(numbers, T, window, torch.device("cpu"))
    mask = visible(None, numbers, None, T, window)
    mask = torch.ones(T, T, dtype=torch.bool).tril()[None, None] if mask is None else mask
    share = mask.float().unflatten(2, (-1, flex.BLOCK)).unflatten(4, (-1, flex.BLOCK)).mean((3, 5))
    assert torch.equal(dense(seen.full_kv_num_blocks, seen.full_kv_indices), share == 1)
    assert torch.equal(dense(seen.kv_num_blocks, seen.kv_indices), (share > 0) & (share < 1))
    q, k, v = (torch.randn(3, heads, T, 8) for heads in (4, 2, 2))
    with torch.no_grad():
        assert near([flex.attend(q, k, v, seen, 0.3)], [attend(q, k, v, mask, 0.3)])


def dense(counts, indices):
    """Which blocks are named, [B, 1, Q, K]."""
    found = torch.zeros_like(indices, dtype=torch.bool)
    return found.scatter(3, indices.long(), torch.arange(indices.shape[3]) < counts[..., None])


@pytest.mark.filterwarnings("ignore")
def test_compiled_blocks_train_on_packed_documents_as_eager_ones(monkeypatch):
    """As on a GPU, by flex_attention's plain form; its backward is switched off on CPUs for the sake of a fused one.
    Other documents compile nothing anew."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)
    shape = {"width": 32, "layers": 4, "heads": 4, "kv_heads": 2, "window": 150, "window_every": 2}
    model = build(ModelConfig(vocab=64, context=T, **shape), seed=0)
    inputs = [(torch.randint(64, (2, T)), *packed()) for _ in range(3)]
    wanted = [slopes(model, *one) for one in inputs]
    monkeypatch.setattr(flex, "fits", lambda tokens, compiled: compiled)
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    for one, expected in zip(inputs, wanted, strict=True):
        assert near(slopes(model, *one), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # layers with a window and without


def test_gelu_by_its_sigmoid_is_gelu_by_its_tanh():
    x = torch.linspace(-30, 30, 6001, dtype=torch.float64, requires_grad=True)
    found, wanted = gelu(x), F.gelu(x, approximate="tanh")
    assert (found - wanted).abs().max() < 1e-14
    one, other = (torch.autograd.grad(y.sum(), x)[0] for y in (found, wanted))
    assert (one - other).abs().max() < 1e-13
