"""What only a GPU can show of the engine: captured steps equal eager ones. Run by hand: python tests/gpu_engine.py."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from engine.make import V, make, prompts
from engine.test_engine import LENGTHS, MIXED
from engine.test_step import Replayed, tensors

from pronk.engine.engine import Engine
from pronk.engine.rows import Rows
from pronk.engine.step import GraphRoom

FAMILIES = {"decoder": {}, "grouped": {"kv_heads": 2}, "untied": {"tied": False}, "lstm": {"family": "lstm"}}
SLOTS, LENGTH = 7, 64


def room(kind, model):
    return kind(model, model.new_state(SLOTS + 1, LENGTH), Rows(SLOTS, LENGTH, V, 3, torch.device("cuda")))


def check_graph_equals_eager():
    """Each family, fp32 and bf16: replayed graphs against the same steps run eagerly, on the same buckets of rows.

    Ids must be equal and log-probabilities within 1e-5; then the engine with graphs against the engine without, whose
    steps have other shapes, in fp32.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    asked = prompts(*LENGTHS)
    for name, keys in FAMILIES.items():
        for dtype in (torch.float32, torch.bfloat16):
            model = make(**keys).to("cuda", dtype)
            found = {}
            for kind in (GraphRoom, Replayed):
                engine = Engine(model, slots=SLOTS)
                engine._room = own = room(kind, model)
                places = [t.data_ptr() for t in tensors(own)]
                engine.generate(asked, MIXED)  # captures
                found[kind] = engine.generate(asked, MIXED)
                assert engine._room is own
                assert [t.data_ptr() for t in tensors(own)][: len(places)] == places, "a tensor was replaced"
            _equal(found[GraphRoom], found[Replayed], 1e-5, f"{name} {dtype}, graph against eager")
        model = make(**keys).to("cuda")
        plain = Engine(model, slots=SLOTS).generate(asked, MIXED)
        graphed = Engine(model, slots=SLOTS, graphs=True)
        _equal(graphed.generate(asked, MIXED), plain, 1e-4, f"{name}, engine with graphs against without")
        check_load_without_recapture(graphed, keys, asked)


def check_load_without_recapture(engine, keys, asked):
    """New weights reach the captured graphs."""
    own = Engine(engine.model, slots=SLOTS, graphs=True)
    own._own(torch.float32)
    own.generate(asked, MIXED)
    graphs = dict(own._room.graphs)
    other = make(seed=1, **keys).to("cuda")
    own.load(other)
    _equal(own.generate(asked, MIXED), Engine(other, slots=SLOTS).generate(asked, MIXED), 1e-4, "loaded weights")
    assert all(own._room.graphs[key] is graph for key, graph in graphs.items()), "captured again"


def _equal(found, wanted, by, what):
    for one, other in zip(found, wanted, strict=True):
        assert one.ids == other.ids, (what, one.ids, other.ids)
        gap = max((abs(a - b) for a, b in zip(one.logps, other.logps)), default=0.0)
        assert gap <= by, (what, gap)
    print(f"equal: {what}")


if __name__ == "__main__":
    check_graph_equals_eager()
