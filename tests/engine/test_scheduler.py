"""Comings and goings: nothing leaks, nobody meets, one prefill serves the samples of a prompt."""

import random

import pytest
import torch

from pronk.engine.engine import Engine
from pronk.engine.scheduler import Scheduler
from pronk.engine.sequence import Sampling
from pronk.engine.step import PREFILL
from pronk.engine.twin import Twin

from .make import V, close, make, prompts

CHOICES = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.6, "top_p": 0.9},
    {"top_k": 3, "repetition_penalty": 1.4},
    {"stop": (1, 2, 3, 4, 5, 6)},
]


@pytest.mark.parametrize("family", ["decoder", "lstm"])
def test_random_arrivals_departures_and_cancels_leak_nothing(family):
    """400 requests come in groups at any step, one in eight is cancelled; each of the others is what it is alone."""
    engine, chance = Engine(make(family=family), slots=6), random.Random(0)
    asked = prompts(*(chance.randint(1, 20) for _ in range(400)))
    how = [Sampling(chance.randint(1, 12), seed=i, **chance.choice(CHOICES)) for i in range(400)]
    alone = Engine(engine.model, slots=400).generate(asked, how)
    room = engine._new_room(6, 64, 6)
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
    assert done.keys() | cancelled == set(range(400))
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
    assert max(s for s in spans if s) == 208
    assert spans[25] == 32  # the long prompt has left; the short one is at position 26
    assert V == 53
