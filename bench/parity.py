"""The parity table: largest differences from each family's reference, on random weights in float32 on a CPU.

Usage: PYTHONPATH=src python bench/parity.py
The same models, oracles and inputs as tests/models: logits of 2 rows of 60 tokens; gradients of the mean loss; the same
rows padded; several documents packed into a row against each alone; and 40 tokens decoded through a state, in chunks of
1 to 7, against no state, with every window wrapped many times.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from models.make import gap, make, tokens
from models.oracles import VARIANTS, Transformer2017, gradients, twin
from models.test_decoder import VARIANTS as LLAMAS
from models.test_decoder import twin as llama
from models.test_families import FIRSTS, PACKED, packed
from models.test_recurrent import by_torch, stacked

from pronk.models.logps import cross_entropy, logits


def main():
    torch.set_num_threads(1)
    print(f"{'family, variant':30} {'logits':>8} {'gradients':>9} {'padded':>8} {'packed':>8} {'cached':>8}")
    for name, keys in LLAMAS.items():
        show(f"llama, {name}", keys, llama)
    for name, keys in VARIANTS.items():
        show(name.replace(" ", ", ", 1), keys, twin)
    for name, keys in FIRSTS.items():
        show(f"transformer 2017, {name}", keys, Transformer2017)
    for family in ("rnn", "gru", "lstm"):
        for attention in (False, True):
            recurrent(family, attention)


def show(name, keys, oracle):
    model, x = make(**keys), tokens(2, 60)
    theirs = oracle(model)
    found = said(theirs, x)
    numbers = [gap(logits(model, x), found), slopes(model, theirs, x, found)]
    numbers += [padding(model, theirs, x[:, :30]), packing(model, theirs), caching(model)]
    print(f"{name:30} " + " ".join(f"{n:8.1e}" if n is not None else f"{'-':>8}" for n in numbers), flush=True)


def said(theirs, x, **how):
    output = theirs(x, **how)
    return output if isinstance(output, torch.Tensor) else output.logits


def slopes(model, theirs, x, found):
    targets = x.roll(-1, 1)
    (cross_entropy(model(x), targets)[0] / x.numel()).backward()
    F.cross_entropy(found.flatten(0, 1), targets.flatten()).backward()
    if isinstance(theirs, Transformer2017):
        return gap(model.embed.weight.grad, theirs.embed.weight.grad)
    return max(gap(one, other) for _, one, other in gradients(model, theirs))


@torch.no_grad()
def padding(model, theirs, x):
    if isinstance(theirs, Transformer2017):
        pads = torch.zeros(2, 30, dtype=torch.bool)
        pads[0, 20:] = True
        return gap(logits(model, x)[0, :20], theirs(x, pads)[0, :20])
    left = torch.ones_like(x)
    left[0, :10] = 0
    found = said(theirs, x, attention_mask=left, position_ids=(left.cumsum(1) - 1).clamp(min=0))
    return gap(logits(model, x[:1, 10:]), found[:1, 10:])


@torch.no_grad()
def packing(model, theirs):
    x = tokens(1, sum(PACKED))
    output = model(x, *packed())
    parts = zip(output.head(output.hidden).split(PACKED, 1), x.split(PACKED, 1))
    return max(gap(part, said(theirs, alone)) for part, alone in parts)


@torch.no_grad()
def caching(model):
    x, start, worst = tokens(2, 60), 0, 0.0
    state, whole = model.new_state(2, 60), logits(model, x)
    for size in [9, 1, 2, 7, 1, 1, 3, 5, 7, 1, 3]:
        places = torch.arange(start, start + size).expand(2, -1)
        output = model(x[:, start : start + size], places, state=state.select(slice(0, 2), start + size, start == 0))
        worst = max(worst, gap(output.head(output.hidden), whole[:, start : start + size]))
        start += size
    return worst


def recurrent(family, attention):
    model, x = make(family=family, recurrent_attention=attention), tokens(2, 60)
    theirs, targets = stacked(model, x, by_torch(family)), x.roll(-1, 1)
    ours = torch.autograd.grad(cross_entropy(model(x), targets)[0] / x.numel(), list(model.parameters()))
    loss = F.cross_entropy(theirs.flatten(0, 1), targets.flatten())
    layers = [p for name, p in model.named_parameters() if not name.startswith("blocks")]
    grads = dict(zip(layers, torch.autograd.grad(loss, layers)))  # torch's modules hold copies of the blocks' weights
    mine = dict(zip(model.parameters(), ours))
    worst = max(gap(mine[p], g) for p, g in grads.items())
    name = f"{family}{', attention' if attention else ''}"
    numbers = f"{gap(logits(model, x), theirs):8.1e} {worst:9.1e} {'-':>8} {'-':>8} {caching(model):8.1e}"
    print(f"{name:30} {numbers}", flush=True)


if __name__ == "__main__":
    main()
