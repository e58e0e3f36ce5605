"""Each family equals its reference on random weights: logits and gradients to 1e-4, padded and packed."""

import pytest
import torch
import torch.nn.functional as F

from pronk.models.logps import cross_entropy, logits

from .make import V, gap, make, tokens
from .oracles import MISTRAL, NEO, VARIANTS, Transformer2017, gradients, twin

FIRST = {"norm": "layer", "block": "post", "feedforward": "relu", "positions": "sinusoidal", "attention_bias": "all"}
FIRSTS = {"tied": FIRST, "untied": FIRST | {"tied": False}, "inner": FIRST | {"ffn_dim": 50, "heads": 2}}
PACKED = [7, 1, 30, 12]
each = pytest.mark.parametrize("name", VARIANTS)


def packed(lengths=PACKED):
    """Positions and documents of one row that holds several."""
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    return positions, torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]


@each
def test_logits_and_gradients_equal_transformers(name):
    model, x = make(**VARIANTS[name]), tokens(2, 60)
    theirs = twin(model)
    found = theirs(x).logits
    assert gap(logits(model, x), found) < 1e-4
    targets = x.roll(-1, 1)
    (cross_entropy(model(x), targets)[0] / x.numel()).backward()
    F.cross_entropy(found.flatten(0, 1), targets.flatten()).backward()
    for ours, one, other in gradients(model, theirs):
        assert gap(one, other) < 1e-4, ours


@each
def test_padded_rows_equal_transformers(name):
    model, x = make(**VARIANTS[name]), tokens(2, 30)
    theirs, mask = twin(model), torch.ones_like(x)
    mask[0, 20:] = 0  # on the right
    found = theirs(x, attention_mask=mask).logits
    assert gap(logits(model, x)[0, :20], found[0, :20]) < 1e-4
    left = mask.flip(1)
    places = (left.cumsum(1) - 1).clamp(min=0)
    found = theirs(x, attention_mask=left, position_ids=places).logits
    assert gap(logits(model, x[:1, 10:]), found[:1, 10:]) < 1e-4


@each
def test_packed_documents_equal_transformers_alone(name):
    model, x = make(**VARIANTS[name]), tokens(1, sum(PACKED))
    theirs, output = twin(model), model(x, *packed())
    for part, alone in zip(output.head(output.hidden).split(PACKED, 1), x.split(PACKED, 1)):
        assert gap(part, theirs(alone).logits) < 1e-4
    targets = x.roll(-1, 1)
    cross_entropy(output, targets)[0].backward()
    for alone, wanted in zip(x.split(PACKED, 1), targets.split(PACKED, 1)):
        F.cross_entropy(theirs(alone).logits[0], wanted[0], reduction="sum").backward()
    for ours, one, other in gradients(model, theirs):
        assert gap(one, other) < 1e-3, ours  # sums over 50 tokens, not means


@pytest.mark.parametrize("name", FIRSTS)
def test_the_first_transformer_equals_torchs_encoder_with_a_causal_mask(name):
    model, x = make(**FIRSTS[name]), tokens(2, 60)
    theirs = Transformer2017(model)
    found = theirs(x)
    assert gap(logits(model, x), found) < 1e-4
    targets = x.roll(-1, 1)
    (cross_entropy(model(x), targets)[0] / x.numel()).backward()
    F.cross_entropy(found.flatten(0, 1), targets.flatten()).backward()
    assert gap(model.embed.weight.grad, theirs.embed.weight.grad) < 1e-4
    for ours, other in zip(model.blocks, theirs.layers):
        a = ours.attention
        joined = torch.cat((a.q.weight.grad, a.k.weight.grad, a.v.weight.grad))
        assert gap(joined, other.self_attn.in_proj_weight.grad) < 1e-4
        assert gap(torch.cat((a.q.bias.grad, a.k.bias.grad, a.v.bias.grad)), other.self_attn.in_proj_bias.grad) < 1e-4
        pairs = [(a.o, other.self_attn.out_proj), (ours.feedforward.up, other.linear1)]
        pairs += [(ours.feedforward.down, other.linear2)]
        pairs += [(ours.attention_norm, other.norm1), (ours.feedforward_norm, other.norm2)]
        for one, same in pairs:
            assert max(gap(one.weight.grad, same.weight.grad), gap(one.bias.grad, same.bias.grad)) < 1e-4


def test_the_first_transformer_padded_and_packed():
    model, x = make(**FIRST), tokens(1, sum(PACKED))
    theirs, output = Transformer2017(model), model(x, *packed())
    for part, alone in zip(output.head(output.hidden).split(PACKED, 1), x.split(PACKED, 1)):
        assert gap(part, theirs(alone)) < 1e-4
    pads = torch.zeros(1, 50, dtype=torch.bool)
    pads[0, 40:] = True
    assert gap(theirs(x, pads)[:, :40], logits(model, x)[:, :40]) < 1e-4


@pytest.mark.parametrize("keys", [MISTRAL, NEO | {"window_every": 1}], ids=["mistral", "neo"])
def test_what_left_every_window_changes_nothing(keys):
    """Three layers of a window of w tokens reach back 3 (w - 1)."""
    model, x = make(**keys), tokens(1, 40)
    reach = 3 * (keys["window"] - 1)
    y = x.clone()
    y[:, : 39 - reach] = (y[:, : 39 - reach] + 1) % V
    assert gap(logits(model, x)[:, -1], logits(model, y)[:, -1]) == 0
    y[:, 39 - reach] = (y[:, 39 - reach] + 1) % V
    assert gap(logits(model, x)[:, -1], logits(model, y)[:, -1]) > 0
