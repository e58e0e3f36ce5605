"""What only a GPU can show of the engine: captured steps equal eager ones. Run by hand: python tests/gpu_engine.py."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from engine.make import FAMILIES as KINDS
from engine.make import V, make, prompts
from engine.test_engine import LENGTHS, MIXED
from engine.test_step import Replayed, tensors

from pronk.engine.engine import Engine
from pronk.engine.rows import Rows
from pronk.engine.step import GraphRoom

FAMILIES = {"decoder": {}, "grouped": {"kv_heads": 2}, "untied": {"tied": False}, "lstm": {"family": "lstm"}}
FAMILIES |= {name: KINDS[name] for name in ("neo", "mistral", "gru")}
SLOTS, LENGTH = 7, 64


def room(kind, model):
    return kind(model, model.new_state(SLOTS + 1, LENGTH), Rows(SLOTS, LENGTH, V, 3, torch.device("cuda")))


def graph_equals_eager():
    """Each family, fp32 and bf16: replayed graphs against the same steps run eagerly, on the same buckets of rows.

    Ids must be equal and log-probabilities within 1e-5; then the engine with graphs against the engine without, whose
    steps have other shapes, in fp32.
    """
    torch.set_float32_matmul_precision("highest")
    asked, worst, other = prompts(*LENGTHS), 0.0, 0.0
    for name, keys in FAMILIES.items():
        for dtype in (torch.float32, torch.bfloat16):
            model = make(**keys).to("cuda", dtype)
            found = {}
            for kind in (GraphRoom, Replayed):
                engine = Engine(model, slots=SLOTS, graphs=False)
                engine._room = own = room(kind, model)
                places = [t.data_ptr() for t in tensors(own)]
                engine.generate(asked, MIXED)  # captures
                found[kind] = engine.generate(asked, MIXED)
                assert engine._room is own
                assert [t.data_ptr() for t in tensors(own)][: len(places)] == places, "a tensor was replaced"
            worst = max(worst, gap(found[GraphRoom], found[Replayed], 1e-5, f"{name} {dtype}"))
        model = make(**keys).to("cuda")
        plain = Engine(model, slots=SLOTS, graphs=False).generate(asked, MIXED)
        graphed = Engine(model, slots=SLOTS).generate(asked, MIXED)
        other = max(other, gap(graphed, plain, 1e-4, f"{name}, engine with graphs against without"))
    return f"{', '.join(FAMILIES)}: ids equal, log-probabilities {worst:.1e} (1e-5); other shapes {other:.1e} (1e-4)"


def load_without_recapture():
    """New weights reach the captured graphs, by load and from the optimizer."""
    torch.set_float32_matmul_precision("highest")
    asked, worst = prompts(*LENGTHS), 0.0
    for name, keys in FAMILIES.items():
        own = Engine(make(**keys).to("cuda"), slots=SLOTS)
        own._own(torch.float32)
        own.generate(asked, MIXED)
        graphs = dict(own._room.graphs)
        other = make(seed=1, **keys).to("cuda")
        own.load(other)
        wanted = Engine(other, slots=SLOTS, graphs=False).generate(asked, MIXED)
        worst = max(worst, gap(own.generate(asked, MIXED), wanted, 1e-4, name))
        assert all(own._room.graphs[key] is graph for key, graph in graphs.items()), "captured again"
    return f"{worst:.1e} (1e-4), the same graphs"


def gap(found, wanted, by, what):
    """The largest difference of log-probabilities; ids must be equal."""
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        assert one.ids == other.ids, (what, one.ids, other.ids)
        worst = max([worst, *(abs(a - b) for a, b in zip(one.logps, other.logps))])
    assert worst <= by, (what, worst)
    return worst


if __name__ == "__main__":
    print(graph_equals_eager(), load_without_recapture(), sep="\n")
