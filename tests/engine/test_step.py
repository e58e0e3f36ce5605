"""The decode step on rows that stand still, and the graph room's buckets, with replays that run the step again."""

import pytest
import torch

from pronk.engine import step
from pronk.engine.engine import Engine
from pronk.engine.forward import NOWHERE
from pronk.engine.rows import Rows
from pronk.engine.sampler import Use
from pronk.engine.sequence import Sampling
from pronk.engine.step import EVERYTHING, GraphRoom, decode
from pronk.errors import UserError
from pronk.models.state import KVState

from .make import V, close, make, prompts
from .test_engine import LENGTHS, MIXED


class Again:
    """Stands in for a CUDA graph."""

    def __init__(self, call):
        self.replay = call

    def pool(self):
        return None


class Replayed(GraphRoom):
    def capture(self, live, span, filtered):
        use = EVERYTHING if filtered else Use()

        def step():
            decode(self.model, self.state, self.rows, live, span, use)

        with self.idle():
            step()
        return Again(step)


def tensors(room):
    held = [room.state.stores.values() if isinstance(room.state, KVState) else vars(room.state).values()]
    state = [t for values in held for t in values if isinstance(t, torch.Tensor)]
    return [*state, *(t for t in vars(room.rows).values() if isinstance(t, torch.Tensor))]


def replayed(engine, slots, length, stops=3):
    model = engine._runs
    return Replayed(model, model.new_state(slots + 1, length), Rows(slots, length, V, stops, torch.device("cpu")))


@pytest.mark.parametrize("family", ["decoder", "lstm"])
def test_a_graph_rooms_buckets_give_the_same(family):
    """Steps over more rows, more columns and with all filters: dead rows and rules that are off change nothing."""
    engine = Engine(make(family=family), slots=7)
    asked = prompts(*LENGTHS)
    wanted = engine.generate(asked, MIXED)
    room = engine._room = replayed(engine, 7, 64)
    for found, want in zip(engine.generate(asked, MIXED), wanted):
        assert found.ids == want.ids
        close(found.logps, want.logps)
    assert engine._room is room
    assert {rows for rows, _, _ in room.graphs} <= {1, 2, 4, 7}
    assert {filtered for _, _, filtered in room.graphs} == {True, False}


@pytest.mark.parametrize("family", ["decoder", "lstm"])
def test_rows_at_no_position_stay_as_they_are(family):
    """So a warm-up before a capture, and dead rows in a bucket, leave no trace but in columns that nobody reads."""
    engine = Engine(make(family=family), slots=4)
    engine.generate(prompts(5, 9, 3), Sampling(6, repetition_penalty=1.3))
    room = engine._room
    room.rows.positions.fill_(NOWHERE)
    length = room.rows.length
    before = [t.clone() for t in tensors(room)]
    decode(room.model, room.state, room.rows, 3, length, Use(top_p=True))
    for old, new in zip(before, tensors(room)):
        if new.dim() == 5:  # keys and values: the last column swallows padding
            old, new = old[:, :, :, :length], new[:, :, :, :length]
        elif new.shape[1] == length + 1:
            old, new = old[:, :length], new[:, :length]
        assert torch.equal(old, new)


def test_nothing_is_replaced_while_generating():
    """A CUDA graph holds addresses: every tensor stays where it was made."""
    engine = Engine(make(), slots=3)
    room = engine._room = engine._new_room(3, 64, 3)
    before = [t.data_ptr() for t in tensors(room)]
    engine.generate(prompts(*LENGTHS), MIXED)
    assert engine._room is room
    assert [t.data_ptr() for t in tensors(room)][: len(before)] == before


def test_graphs_need_cuda():
    with pytest.raises(UserError, match="CUDA"):
        Engine(make(), graphs=True)


def test_buckets_are_dense():
    """No bucket holds more than a quarter of dead rows, past the smallest."""
    sizes = [step._dense(rows) for rows in range(1, 1025)]
    assert all(size >= rows for rows, size in enumerate(sizes, 1))
    assert all(size <= 1.25 * rows for rows, size in enumerate(sizes, 1) if rows > 32)
    assert len(set(sizes)) < 40
