"""Comings and goings: nothing leaks, nobody meets, one prefill serves the samples of a prompt."""

import random

import pytest
import torch

from pronk.engine import scheduler as scheduling
from pronk.engine.engine import Engine
from pronk.engine.forward import PREFILL
from pronk.engine.scheduler import Scheduler
from pronk.engine.sequence import Sampling
from pronk.engine.twin import Twin

from .make import V, close, make, prompts
from .test_step import replayed

CHOICES = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.6, "top_p": 0.9},
    {"top_k": 3, "repetition_penalty": 1.4},
    {"stop": (1, 2, 3, 4, 5, 6)},
]


@pytest.mark.parametrize(("family", "every"), [("decoder", 1), ("decoder", 8), ("lstm", 8)])
def test_random_arrivals_departures_and_cancels_leak_nothing(family, every, monkeypatch):
    """1,000 requests come in groups at any step, one in eight is cancelled; each of the others is what it is alone.

    every: steps between two looks at who ended. One prompt in three is long: it comes in piece by piece.
    """
    engine, chance = Engine(make(family=family), slots=6), random.Random(0)
    asked = prompts(*(chance.randint(1, 20) for _ in range(1000)))
    how = [Sampling(chance.randint(1, 12), seed=i, **chance.choice(CHOICES)) for i in range(1000)]
    alone = Engine(engine.model, slots=500).generate(asked, how)
    monkeypatch.setattr(scheduling, "CHUNK", 13)
    room = engine._new_room(6, 64, 6) if every == 1 else replayed(engine, 6, 64, 6)
    assert room.every == every
    scheduler, coming, done, cancelled = Scheduler(room), list(enumerate(engine.requests(asked, how))), {}, set()
    numbers = {id(request): place for place, request in coming}
    with torch.no_grad():
        while coming or scheduler.busy:
            group, coming = coming[: (size := chance.choice([0, 0, 1, 5]))], coming[size:]
            scheduler.add(request for _, request in group)
            for place, request in group:
                if chance.random() < 0.125:
                    cancelled.add(place)
                    for _ in range(chance.randint(0, 2)):
                        done |= {numbers[id(r)]: r for r in scheduler.step()}
                    scheduler.cancel(request)
            done |= {numbers[id(r)]: r for r in scheduler.step()}
            assert len(scheduler.live) <= 6
            assert (room.rows.positions[len(scheduler.live) :] == -1).all()
            assert (room.rows.positions[: len(scheduler.live)] >= 0).all()
    assert done.keys() | cancelled == set(range(1000))
    assert not scheduler.busy and (room.rows.positions == -1).all()
    for place, request in done.items():
        assert request.ids == alone[place].ids
        close(request.logps, alone[place].logps)
        assert request.finish == alone[place].finish


def counted(monkeypatch):
    """Prompt rows prefilled, so far."""
    rows, plain = [], Twin.__call__

    def forward(self, tokens, positions=None, documents=None, state=None):
        if state is not None and state.fresh:
            rows.extend(positions.max(1).values.tolist())
        return plain(self, tokens, positions, documents, state)

    monkeypatch.setattr(Twin, "__call__", forward)
    return rows


def test_samples_of_a_prompt_share_one_prefill(monkeypatch):
    """Also where they do not all find a slot at once: the prompt's state waits in the spare row."""
    engine = Engine(make(), slots=4)
    asked = prompts(9, 12, 5)
    alone = [engine.generate([p], [Sampling(6, seed=i, n=7)]) for i, p in enumerate(asked)]
    rows = counted(monkeypatch)
    done = engine.generate(asked, [Sampling(6, seed=i, n=7) for i in range(3)])
    assert [d.ids for d in done] == [d.ids for group in alone for d in group]
    assert sorted(rows) == [3, 7, 10]  # the last token of a prompt is fed by the first step


def test_equal_prompts_that_come_together_share_one_prefill(monkeypatch):
    rows = counted(monkeypatch)
    Engine(make()).generate(prompts(9) * 5 + prompts(4), Sampling(2))
    assert sorted(rows) == [2, 7]


def test_prompts_are_prefilled_in_forwards_of_bounded_size(monkeypatch):
    model, sizes, plain = make(context=512), [], Twin.__call__

    def forward(self, tokens, positions=None, documents=None, state=None):
        sizes.append(tokens.numel())
        return plain(self, tokens, positions, documents, state)

    asked = prompts(*[400] * 22, *[300] * 10, 2, 1)
    alone = Engine(model).generate([asked[25]], [Sampling(3, seed=25)])[0]
    monkeypatch.setattr(Twin, "__call__", forward)
    done = Engine(model).generate(asked, [Sampling(3, seed=i) for i in range(len(asked))])
    assert max(sizes) <= PREFILL
    assert done[25].ids == alone.ids


def test_memory_read_grows_with_the_text_and_not_with_the_room(monkeypatch):
    spans, plain = [], Twin.__call__

    def forward(self, tokens, positions=None, documents=None, state=None):
        spans.append(None if state.fresh else state.span)
        return plain(self, tokens, positions, documents, state)

    monkeypatch.setattr(Twin, "__call__", forward)
    Engine(make(context=256)).generate(prompts(30, 3), [Sampling(20), Sampling(200)])
    assert spans[1] == 32
    assert max(s for s in spans if s) == 204
    assert spans[25] == 28  # the long prompt has left; the short one is at position 26
    assert V == 53


def test_a_long_prompt_does_not_stall_the_others(monkeypatch):
    """It comes in by pieces, one a step, while the others go on and shorter prompts pass it; its samples share it."""
    monkeypatch.setattr(scheduling, "CHUNK", 16)
    engine = Engine(make(context=256), slots=4)
    asked = prompts(5, 100, 7, 40)
    how = [Sampling(30, seed=1), Sampling(4, seed=2, n=6), Sampling(9, seed=3), Sampling(5, seed=4)]
    wanted = [one for p, s in zip(asked, how) for one in engine.generate([p], [s])]
    sizes, plain = [], Twin.__call__

    def forward(self, tokens, positions=None, documents=None, state=None):
        sizes.append(tokens.numel() if tokens.shape[1] > 1 else 0)
        return plain(self, tokens, positions, documents, state)

    monkeypatch.setattr(Twin, "__call__", forward)
    requests, room = engine.requests(asked, how), engine._new_room(4, 256, 0)
    scheduler = Scheduler(room)
    scheduler.add(requests)
    with torch.no_grad():
        while scheduler.busy:
            scheduler.step()
    for request, want in zip(requests, wanted):
        assert request.ids == want.ids
        close(request.logps, want.logps)
    assert max(sizes) == 16
    assert sum(sizes) == (99 + 39) + 2 * 6  # each long prompt once; the short ones together, padded
    assert all(0 in sizes[a:b] for a, b in zip(range(len(sizes)), range(3, 12)))  # decoding goes on between


def test_a_long_prompt_can_be_cancelled_on_its_way(monkeypatch):
    monkeypatch.setattr(scheduling, "CHUNK", 8)
    engine = Engine(make(), slots=2)
    long, other = engine.requests(prompts(30, 20), [Sampling(3, seed=1), Sampling(3, seed=2)])
    (wanted,) = engine.generate(prompts(30, 20)[1:], [Sampling(3, seed=2)])
    scheduler = Scheduler(engine._new_room(2, 64, 0))
    scheduler.add([long, other])
    with torch.no_grad():
        scheduler.step()
        scheduler.step()
        scheduler.cancel(long)
        while scheduler.busy:
            scheduler.step()
    assert other.ids == wanted.ids and long.finish is None


@pytest.mark.parametrize("family", ["decoder", "lstm"])
def test_stops_between_two_looks(family):
    """A stop id or text found some steps late costs nothing and changes nobody: the ids end where they should."""
    engine = Engine(make(family=family), slots=5, decode=lambda ids: "".join(f"{i:02d}" for i in ids))
    asked = prompts(4, 5, 6, 9, 3)
    free = engine.generate(asked, [Sampling(30, seed=s) for s in range(5)])
    how = [Sampling(30, seed=s) for s in range(5)]
    how[1] = Sampling(30, seed=1, stop=(free[1].ids[10],))
    how[2] = Sampling(30, seed=2, stop_texts=(free[2].text[25:28],))
    how[3] = Sampling(30, seed=3, stop=(free[3].ids[3],), stop_texts=(free[3].text[41:44],))
    wanted = engine.generate(asked, how)
    engine._room = room = replayed(engine, 5, 64)
    found = engine.generate(asked, how)
    assert engine._room is room and room.every > 1
    for a, b in zip(found, wanted):
        assert (a.ids, a.text, a.finish) == (b.ids, b.text, b.finish)
        close(a.logps, b.logps)
    pieces = list(engine.stream(asked[2], how[2]))
    assert [i for p in pieces for i in p.ids] == wanted[2].ids
    assert len(pieces) < len(wanted[2].ids)
