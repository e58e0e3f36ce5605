"""The LSTM equals torch.nn.LSTM stacked the same way, and the textbook's loop."""

import torch

from pronk.models.logps import cross_entropy, logits

from .make import V, gap, make, tokens


def stacked(model, x, run):
    """Embedding, residual layers through run(layer, h), norm and head, written out again."""
    h = model.embed.weight[x]
    for layer in model.blocks:
        h = h + run(layer, h)
    h = h / (h.pow(2).mean(-1, keepdim=True) + model.config.norm_eps).sqrt() * model.norm.weight
    return h @ model.head.weight.T


def by_torch(layer, h):
    width = h.shape[-1]
    lstm = torch.nn.LSTM(width, width, batch_first=True)
    lstm.weight_ih_l0, lstm.weight_hh_l0 = layer.weight_in, layer.weight_hidden
    lstm.bias_ih_l0, lstm.bias_hh_l0 = layer.bias_in, layer.bias_hidden
    return lstm(h)[0]


def by_loop(layer, h):
    hidden = cell = torch.zeros(h.shape[0], h.shape[2])
    outputs = []
    for x in h.unbind(1):
        gates = x @ layer.weight_in.T + layer.bias_in + hidden @ layer.weight_hidden.T + layer.bias_hidden
        take, keep, new, give = gates.chunk(4, -1)
        cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
        hidden = give.sigmoid() * cell.tanh()
        outputs.append(hidden)
    return torch.stack(outputs, 1)


def test_equals_torch_lstm():
    model, x = make(family="lstm"), tokens(3, 20)
    assert gap(logits(model, x), stacked(model, x, by_torch)) < 1e-5


def test_equals_a_plain_loop_with_gradients():
    for tied in (True, False):
        model, x = make(family="lstm", tied=tied, width=20), tokens(3, 12)
        targets = x.roll(-1, 1)
        theirs = stacked(model, x, by_loop)
        assert gap(logits(model, x), theirs) < 1e-5
        parameters = list(model.parameters())
        ours = torch.autograd.grad(cross_entropy(model(x), targets)[0], parameters)
        loss = torch.nn.functional.cross_entropy(theirs.reshape(-1, V), targets.flatten(), reduction="sum")
        for one, other in zip(ours, torch.autograd.grad(loss, parameters)):
            assert gap(one, other) < 1e-4


def test_gradient_flows_through_ragged_rows():
    model, x = make(family="lstm"), tokens(2, 8)
    positions = torch.arange(8).repeat(2, 1)
    positions[1, 5:] = -1
    targets = torch.where(positions >= 0, x.roll(-1, 1), -100)
    state = model.new_state(2, 8).select(slice(0, 2), 8, fresh=True)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(cross_entropy(model(x, positions, state=state), targets)[0], parameters)
    plain = torch.autograd.grad(cross_entropy(model(x), targets)[0], parameters)
    for one, other in zip(ours, plain):
        assert gap(one, other) < 1e-4
