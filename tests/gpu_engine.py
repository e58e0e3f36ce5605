"""What only a GPU can show of the engine: captured steps and kernels equal plain ones. By hand, like gpu.py."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from engine import test_kernels_filter as filters
from engine.make import FAMILIES as KINDS
from engine.make import V, make, prompts
from engine.test_engine import LENGTHS, MIXED
from engine.test_step import Replayed, tensors

from pronk.engine.engine import Engine
from pronk.engine.quick import Quick
from pronk.engine.rows import Rows
from pronk.engine.sequence import Sampling
from pronk.engine.step import GraphRoom, Room

FAMILIES = {"decoder": {}, "grouped": {"kv_heads": 2}, "untied": {"tied": False}, "qk-norm": {"qk_norm": True}}
FAMILIES |= {name: KINDS[name] for name in ("neo", "mistral", "gru", "lstm")}
SLOTS, LENGTH = 7, 64


def exactly():
    """Float32 products in float32, those of recurrent cells too."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def room(kind, engine):
    """fused: as the engine makes them, where all are to have the same sampler."""
    rows = Rows(SLOTS, LENGTH, V, 3, torch.device("cuda"), drawn=False)
    return kind(engine._runs, engine._runs.new_state(SLOTS + 1, LENGTH), rows, fused=True)


class Again(Replayed):
    """Runs the captured step again instead of a graph."""

    def decode(self, live, span, use):
        rows, span = self.size(live, span)
        Room.decode(self, rows, span, use)


def graph_equals_eager():
    """Each family, fp32 and bf16: replayed graphs against the same kernels run eagerly, on the same buckets of rows.

    Ids must be equal and log-probabilities within 1e-5; then the engine with graphs and kernels against the plain
    model without either, in fp32.
    """
    exactly()
    asked, worst, other = prompts(*LENGTHS), 0.0, 0.0
    for name, keys in FAMILIES.items():
        for dtype in (torch.float32, torch.bfloat16):
            model = make(**keys).to("cuda", dtype)
            found = {}
            for kind in (GraphRoom, Again):
                engine = Engine(model, slots=SLOTS, graphs=False)
                assert isinstance(engine._runs, Quick)
                engine._room = own = room(kind, engine)
                places = [t.data_ptr() for t in tensors(own)]
                engine.generate(asked, MIXED)  # captures
                found[kind] = engine.generate(asked, MIXED)
                assert engine._room is own
                assert [t.data_ptr() for t in tensors(own)][: len(places)] == places, "a tensor was replaced"
            worst = max(worst, gap(found[GraphRoom], found[Again], 1e-5, f"{name} {dtype}"))
        model = make(**keys)
        plain = Engine(model, slots=SLOTS).generate(asked, MIXED)
        graphed = Engine(model.to("cuda"), slots=SLOTS).generate(asked, MIXED)
        other = max(other, gap(graphed, plain, 1e-4, f"{name}, GPU with kernels and graphs against CPU"))
    return f"{', '.join(FAMILIES)}: ids equal, log-probabilities {worst:.1e} (1e-5); against a CPU {other:.1e} (1e-4)"


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


def filters_equal_rules():
    """What top-k, top-p and min-p keep without a sort, against the rules that sort: of the vocabularies of real models,
    held at once and in pieces; logits random, tied, peaked, flat and in bfloat16, each row with rules of its own."""
    sizes = (13, 1000, 32_000, 50_257, 151_936)
    for vocab in sizes:
        for name, kind in filters.SHAPES.items():
            try:
                filters.compare(kind, vocab)
            except AssertionError as error:
                raise AssertionError(vocab, name, *error.args) from error
    return f"{len(filters.RULES)} rules, {', '.join(filters.SHAPES)} logits, vocabularies {sizes}: the same tokens"


def neighbours_change_no_bit():
    """With deterministic algorithms: a seeded bfloat16 request alone and in any company, to the last bit of its
    log-probabilities."""
    asked = prompts(*LENGTHS)
    how = [Sampling(20, seed=i, temperature=0.9, top_p=(1.0, 0.9)[i % 2]) for i in range(len(asked))]
    torch.use_deterministic_algorithms(True)
    try:
        for name, keys in FAMILIES.items():
            if name in ("gru", "lstm"):
                continue  # cuDNN chooses by the batch
            engine = Engine(make(**keys).to("cuda", torch.bfloat16), slots=5)
            alone = [engine.generate([p], [s])[0] for p, s in zip(asked, how)]
            for order in (list(range(len(asked))), list(range(len(asked)))[::-1]):
                mixed = engine.generate([asked[i] for i in order], [how[i] for i in order])
                for i, one in zip(order, mixed):
                    assert (one.ids, one.logps) == (alone[i].ids, alone[i].logps), (name, i)
    finally:
        torch.use_deterministic_algorithms(False)
    return "bit for bit"


def gap(found, wanted, by, what):
    """The largest difference of log-probabilities; ids must be equal."""
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        assert one.ids == other.ids, (what, one.ids, other.ids)
        worst = max([worst, *(abs(a - b) for a, b in zip(one.logps, other.logps))])
    assert worst <= by, (what, worst)
    return worst


if __name__ == "__main__":
    print(graph_equals_eager(), load_without_recapture(), filters_equal_rules(), neighbours_change_no_bit(), sep="\n")
