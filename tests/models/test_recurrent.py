"""Recurrent families equal torch's modules stacked the same way, and the textbooks' loops, attention included."""

import pytest
import torch

from pronk.models.build import build
from pronk.models.config import ModelConfig
from pronk.models.logps import cross_entropy, logits
from pronk.models.recurrent import side_by_side

from .make import V, gap, make, tokens

FAMILIES = ["rnn", "gru", "lstm"]
each = pytest.mark.parametrize("family", FAMILIES)
attends = pytest.mark.parametrize("attention", [False, True], ids=["plain", "attention"])


def stacked(model, x, run):
    """Embedding, residual layers through run(layer, h), attention, norm and head, written out again."""
    h = model.embed.weight[x]
    for number, layer in enumerate(model.blocks):
        y = run(layer, h)
        if model.config.recurrent_attention and number == len(model.blocks) - 1:
            y = luong(model.recall[-1].combine.weight, y)
        h = h + y
    h = h / (h.pow(2).mean(-1, keepdim=True) + model.config.norm_eps).sqrt() * model.norm.weight
    return h @ model.head.weight.T


def luong(combine, y):
    """Row by row and step by step, over the zero state and the states before."""
    rows = []
    for row in y:
        past, outputs = [torch.zeros_like(row[0])], []
        for h in row:
            states = torch.stack(past)
            context = (states @ h).softmax(0) @ states
            outputs.append((combine @ torch.cat((context, h))).tanh())
            past.append(h)
        rows.append(torch.stack(outputs))
    return torch.stack(rows)


def by_torch(family):
    def run(layer, h):
        width = h.shape[-1]
        kind = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[family]
        theirs = kind(width, width, batch_first=True)
        theirs.weight_ih_l0, theirs.weight_hh_l0 = layer.weight_in, layer.weight_hidden
        theirs.bias_ih_l0, theirs.bias_hh_l0 = layer.bias_in, layer.bias_hidden
        return theirs(h)[0]

    return run


def elman(layer, h):
    hidden, outputs = torch.zeros(h.shape[0], h.shape[2]), []
    for x in h.unbind(1):
        here = x @ layer.weight_in.T + layer.bias_in
        hidden = (here + hidden @ layer.weight_hidden.T + layer.bias_hidden).tanh()
        outputs.append(hidden)
    return torch.stack(outputs, 1)


def gru(layer, h):
    hidden, outputs = torch.zeros(h.shape[0], h.shape[2]), []
    for x in h.unbind(1):
        reset, update, new = (x @ layer.weight_in.T + layer.bias_in).chunk(3, -1)
        old_reset, old_update, old_new = (hidden @ layer.weight_hidden.T + layer.bias_hidden).chunk(3, -1)
        keep = (update + old_update).sigmoid()
        hidden = (1 - keep) * (new + (reset + old_reset).sigmoid() * old_new).tanh() + keep * hidden
        outputs.append(hidden)
    return torch.stack(outputs, 1)


def lstm(layer, h):
    hidden = cell = torch.zeros(h.shape[0], h.shape[2])
    outputs = []
    for x in h.unbind(1):
        gates = x @ layer.weight_in.T + layer.bias_in + hidden @ layer.weight_hidden.T + layer.bias_hidden
        take, keep, new, give = gates.chunk(4, -1)
        cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
        hidden = give.sigmoid() * cell.tanh()
        outputs.append(hidden)
    return torch.stack(outputs, 1)


LOOPS = {"rnn": elman, "gru": gru, "lstm": lstm}


@each
@attends
def test_equals_torchs_modules(family, attention):
    model, x = make(family=family, recurrent_attention=attention), tokens(3, 20)
    assert gap(logits(model, x), stacked(model, x, by_torch(family))) < 1e-5


@each
@attends
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_equals_a_plain_loop_with_gradients(family, attention, tied):
    model, x = make(family=family, recurrent_attention=attention, tied=tied, width=20), tokens(3, 12)
    targets = x.roll(-1, 1)
    theirs = stacked(model, x, LOOPS[family])
    assert gap(logits(model, x), theirs) < 1e-5
    parameters = list(model.parameters())
    ours = torch.autograd.grad(cross_entropy(model(x), targets)[0], parameters)
    loss = torch.nn.functional.cross_entropy(theirs.reshape(-1, V), targets.flatten(), reduction="sum")
    for one, other in zip(ours, torch.autograd.grad(loss, parameters)):
        assert gap(one, other) < 1e-4


@each
@attends
def test_gradient_flows_through_ragged_rows(family, attention):
    model, x = make(family=family, recurrent_attention=attention), tokens(2, 8)
    positions = torch.arange(8).repeat(2, 1)
    positions[1, 5:] = -1
    targets = torch.where(positions >= 0, x.roll(-1, 1), -100)
    state = model.new_state(2, 8).select(slice(0, 2), 8, fresh=True)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(cross_entropy(model(x, positions, state=state), targets)[0], parameters)
    plain = torch.autograd.grad(cross_entropy(model(x), targets)[0], parameters)
    for one, other in zip(ours, plain):
        assert gap(one, other) < 1e-4


@each
def test_dropout_works_in_training_alone(family):
    model, x = make(family=family, dropout=0.5), tokens(2, 8)
    assert gap(model.train()(x).hidden, model(x).hidden) > 0.1
    assert gap(model.eval()(x).hidden, model(x).hidden) == 0
    assert gap(model(x).hidden, make(family=family)(x).hidden) == 0


@each
def test_fresh_gates_see_their_tokens(family):
    """Sums over the embedding's small numbers are as large as those over a layer's own outputs of deviation 1."""
    model = build(ModelConfig(family=family, vocab=300, width=64, layers=2), seed=0)
    heard = (model.embed.weight @ model.blocks[0].weight_in.T).std()
    wanted = (torch.randn(300, 64) @ model.blocks[1].weight_in.T).std()
    torch.testing.assert_close(heard, wanted, rtol=0.1, atol=0)


def test_weights_for_cudnn_lie_in_one_piece():
    weights = [torch.randn(12, 4, requires_grad=True), torch.randn(12, 4), torch.randn(12)]
    joined = side_by_side(weights)
    for one, other in zip(joined, weights):
        assert torch.equal(one, other)
    assert [part.storage_offset() for part in joined] == [0, 48, 96]
    assert len({part.untyped_storage().data_ptr() for part in joined}) == 1
    (joined[0] * weights[1]).sum().backward()
    assert torch.equal(weights[0].grad, weights[1])


@each
def test_cells_stay_in_float32_under_autocast(family):
    """Their gradients would overflow where those of cuDNN's bfloat16 do."""
    layer = make(family=family).blocks[0]
    x, start = torch.randn(3, 5, 32), torch.zeros(3, 32 * layer.cell.vectors)
    wanted = layer(x, start, None)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x, start, None)
        rounded = layer(x.bfloat16(), start.bfloat16(), torch.tensor([5, 2, 3]))
    assert all(torch.equal(one, other) for one, other in zip(found, wanted))
    assert rounded[0].dtype == torch.float32
