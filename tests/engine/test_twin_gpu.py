"""The GPU's twin gives what its model gives: prompts packed, then steps, on every shape; interpreted where no GPU is."""

import pytest
import torch
from models.interpret import DEVICE  # before any kernel

# isort: split

from pronk.engine.forward import next_logits, prefill
from pronk.engine.twin_gpu import GpuTwin, wide

from .make import V, make, prompts

SHAPES = {
    "gqa": {"kv_heads": 2},
    "mqa, untied": {"kv_heads": 1, "tied": False},
    "single, own head size": {"feedforward": "swiglu-single", "head_dim": 12},
}


@torch.no_grad()
def told(run, model, lengths):
    """Logits of some steps after prompts of unequal length; the longest comes in two pieces, one row is left out."""
    state, asked = model.new_state(len(lengths) + 2, 64), prompts(*lengths)
    packed = run.prefill if isinstance(run, GpuTwin) else lambda *given: prefill(run, *given)
    device = torch.device(DEVICE)
    packed([ids[:-1] for ids in asked[:-1]], range(0, len(asked) - 1), [0] * (len(asked) - 1), state, device, 25)
    for piece, start in ((asked[-1][:9], 0), (asked[-1][9:-1], 9)):
        packed([piece], range(len(asked) - 1, len(asked)), [start], state, device, 25)
    tokens = torch.tensor([[ids[-1]] for ids in asked], device=device)
    positions = torch.tensor([[len(ids) - 1] for ids in asked], device=device)
    if len(asked) > 1:
        positions[1] = -1
    found = []
    for step in range(3):
        one = run.logits if isinstance(run, GpuTwin) else lambda *given: next_logits(run, *given)
        found.append(one(tokens, positions, state, 64)[positions[:, 0] >= 0])
        tokens, positions = (tokens * 5 + step) % V, torch.where(positions < 0, positions, positions + 1)
    return torch.cat(found)


@pytest.mark.parametrize("lengths", [(30,), (1, 3, 8, 30)], ids=str)
@pytest.mark.parametrize("keys", SHAPES.values(), ids=SHAPES)
def test_packed_prompts_and_steps_give_the_models_logits(keys, lengths):
    torch.set_float32_matmul_precision("highest")
    model = make(**keys).to(DEVICE)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.mul_(torch.linspace(0.5, 2, len(parameter)))
    twin = GpuTwin(model)
    twin.refresh(model)
    addresses = [layer.qkv.data_ptr() for layer in twin.joined]
    torch.testing.assert_close(told(twin, model, lengths), told(model, model, lengths), atol=2e-5, rtol=2e-5)
    if len(lengths) == 1:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        twin.refresh(model)
        torch.testing.assert_close(told(twin, model, lengths), told(model, model, lengths), atol=2e-5, rtol=2e-5)
        assert addresses == [layer.qkv.data_ptr() for layer in twin.joined]


def test_a_head_is_widened_to_what_the_library_likes():
    weight = torch.randn(V, 8)
    assert wide(weight).shape == (64, 8)
    assert torch.equal(wide(weight)[:V], weight)
    assert wide(wide(weight)) is not None and wide(torch.randn(64, 8)).shape == (64, 8)
