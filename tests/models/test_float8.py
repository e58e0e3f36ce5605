"""Products in 8-bit floats against exact ones; torch has them on CPUs, too."""

import torch
from torch import nn

from pronk.models.build import build
from pronk.models.config import ModelConfig
from pronk.models.float8 import BACK, FORTH, Float8Linear, rounded, to_float8


def off(found, wanted):
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


def test_rounding_keeps_three_or_two_bits_and_the_largest():
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)) * 1e-4
    for dtype, bound in ((FORTH, 2**-4), (BACK, 2**-3)):
        small, scale = rounded(x, dtype)
        back = small.float() * scale
        assert (back.abs().max() / x.abs().max() - 1).abs() < 1e-6
        assert ((back - x).abs() <= bound * x.abs() + 1e-8).all()
    assert rounded(torch.zeros(4, 4), FORTH)[0].float().eq(0).all()


def test_a_compiled_layer_multiplies_in_8_bits_and_an_eager_one_as_ever():
    torch.manual_seed(0)
    plain = nn.Linear(64, 48, bias=False)
    layer = nn.Linear(64, 48, bias=False)
    layer.load_state_dict(plain.state_dict())
    layer.__class__ = Float8Linear
    x = torch.randn(4, 16, 64)
    xs = [x.clone().requires_grad_() for _ in range(2)]
    g = torch.randn(4, 16, 48)
    wanted = plain(xs[0])
    assert torch.equal(layer(x), wanted)
    torch._dynamo.reset()
    found = torch.compile(layer, backend="aot_eager", fullgraph=True)(xs[1])
    wanted.backward(g)
    found.backward(g)
    assert found.dtype == torch.bfloat16 and xs[1].grad.dtype == layer.weight.grad.dtype == torch.float32
    assert 1e-3 < off(found, wanted) < 0.05
    assert off(xs[1].grad, xs[0].grad) < 0.08 and off(layer.weight.grad, plain.weight.grad) < 0.08


def test_only_the_blocks_plain_layers_change_and_names_stay():
    model = build(ModelConfig(vocab=50, width=32, layers=2, heads=2, ffn_dim=56), seed=0)
    names = [name for name, _ in model.named_parameters()]
    assert to_float8(model) == 8  # attention's; 56 is no multiple of 16
    assert [name for name, _ in model.named_parameters()] == names
    biased = build(ModelConfig(vocab=50, width=32, layers=1, heads=2, attention_bias="all", feedforward="gelu"), seed=0)
    assert to_float8(biased) == 0
