"""The GPU's twin gives what its model gives: packed prompts, then steps; in triton's interpreter without a GPU."""

import pytest
import torch
import torch.nn.functional as F
from models.interpret import DEVICE  # before any kernel

# isort: split

from pronk.engine.forward import next_logits, prefill
from pronk.engine.twin_gpu import GpuTwin, Widened, known

from .make import V, make, prompts

SHAPES = {
    "gqa, qk-norm": {"kv_heads": 2, "qk_norm": True},
    "mqa, untied": {"kv_heads": 1, "tied": False},
    "single, own head size": {"feedforward": "swiglu-single", "head_dim": 12},
    "gpt-neo, ring": {
        **{"norm": "layer", "feedforward": "gelu", "attention_bias": "output", "attention_scaled": False},
        **{"window": 12, "window_every": 2, "positions": "learned"},
    },
    "gpt": {"norm": "layer", "feedforward": "relu", "attention_bias": "all", "positions": "learned"},
}


@torch.no_grad()
def told(run, model, lengths):
    """Logits of some steps after prompts of unequal length; the longest comes in two pieces, one row is left out."""
    state, asked = model.new_state(len(lengths) + 2, 64), prompts(*lengths)

    def padded(columns, work):
        """As a captured forward of more tokens than there are."""
        run.take_in(F.pad(columns, (0, 5), value=-1).to(DEVICE), F.pad(work, (0, 0, 0, 3)).to(DEVICE), state)

    def packed(*given):
        if isinstance(run, GpuTwin):
            run.prefill(*given, through=padded if len(lengths) > 1 else None)
        else:
            prefill(run, *given)

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
                parameter.mul_(torch.linspace(0.5, 2, len(parameter), device=DEVICE))
            if name.endswith("bias"):
                parameter.add_(torch.linspace(-0.5, 0.5, len(parameter), device=DEVICE))
    assert known(model)
    twin = GpuTwin(model)
    twin.refresh()
    addresses = [layer.qkv.data_ptr() for layer in twin.layers]
    torch.testing.assert_close(told(twin, model, lengths), told(model, model, lengths), atol=1e-4, rtol=1e-4)
    if len(lengths) == 1:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        twin.refresh()
        torch.testing.assert_close(told(twin, model, lengths), told(model, model, lengths), atol=1e-4, rtol=1e-4)
        assert addresses == [layer.qkv.data_ptr() for layer in twin.layers]


def test_a_head_is_widened_to_what_the_library_likes():
    """Of a model of another family: its own forward, and a head of whole blocks."""
    model = make(family="lstm").to(DEVICE)
    assert not known(model)
    runs = Widened(model)
    assert runs.top.shape == (64, 32)
    state = model.new_state(3, 8)
    tokens, positions = torch.tensor([[1], [2]], device=DEVICE), torch.tensor([[0], [0]], device=DEVICE)
    with torch.no_grad():
        model.embed.weight.mul_(1.5)
        runs.refresh()
        found = runs.logits(tokens, positions, state, 8)
        wanted = next_logits(model, tokens, positions, model.new_state(3, 8), 8)
    assert found.shape == (2, V)
    torch.testing.assert_close(found, wanted)
