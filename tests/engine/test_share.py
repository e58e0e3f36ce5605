"""Rows shared among threads give what they give in one: any mix, stops, a row that leaves, and errors that come out."""

from dataclasses import replace

import pytest
import torch

from pronk.engine import share
from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.engine.share import SharedRoom, advance
from pronk.engine.step import Room

from .make import close, make, prompts
from .test_engine import LENGTHS, MIXED


@pytest.fixture
def threads(monkeypatch):
    """Two threads, with few rows each."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(share, "LEAST", 2)
    yield
    torch.set_num_threads(before)


def parts(monkeypatch):
    """Rows and steps of each thread's part, so far."""
    found, plain = [], SharedRoom._part

    def counted(self, rows, start, spans, use):
        found.append((start, start + len(rows.tokens), len(spans)))
        plain(self, rows, start, spans, use)

    monkeypatch.setattr(SharedRoom, "_part", counted)
    return found


def alike(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert a.ids == b.ids and a.finish == b.finish
        close(a.logps, b.logps)


SAMPLINGS = {
    "plain": Sampling(20, seed=1),
    "heat": Sampling(20, seed=1, temperature=0.7),
    "greedy": Sampling(20, seed=1, temperature=0.0),
    "stops": Sampling(20, seed=1, stop=tuple(range(10))),
    "top-k": Sampling(20, seed=1, top_k=9, temperature=1.3),
    "top-p": Sampling(20, seed=1, top_p=0.7),
    "min-p": Sampling(20, seed=1, min_p=0.02),
    "penalty": Sampling(20, seed=1, repetition_penalty=1.4, temperature=0.0),
}


@pytest.mark.parametrize("keys", [{}, {"kv_heads": 1}, {"feedforward": "swiglu-single", "tied": False}])
@pytest.mark.parametrize("how", SAMPLINGS.values(), ids=SAMPLINGS)
def test_shared_rows_give_the_same(threads, monkeypatch, how, keys):
    asked = prompts(5, 1, 17, 9, 3, 8, 30)
    hows = [replace(how, seed=seed) for seed in range(len(asked))]
    alone = [Engine(make(**keys)).generate([prompt], [how])[0] for prompt, how in zip(asked, hows)]
    found = parts(monkeypatch)
    together = Engine(make(**keys)).generate(asked, hows)
    alike(together, alone)
    assert {(0, 3), (3, 7)} <= {part[:2] for part in found}


def test_prompts_are_taken_in_by_all_threads(threads, monkeypatch):
    """Each takes about half of the tokens, with one thread, and none is forgotten."""
    found, plain = [], Room._take_in

    def counted(self, ids, row, starts):
        found.append((row, [len(prompt) for prompt in ids], torch.get_num_threads()))
        plain(self, ids, row, starts)

    monkeypatch.setattr(Room, "_take_in", counted)
    Engine(make()).generate(prompts(3, 4, 5, 6, 20), Sampling(2))
    assert sorted(found) == [(0, [2, 3, 4, 5], 1), (4, [19], 1)]
    found.clear()
    Engine(make()).generate(prompts(3), Sampling(2))
    assert found == [(0, [2], 1)]


def test_a_mix_of_requests_gives_the_same(threads):
    asked = prompts(*LENGTHS)
    engine = Engine(make(), slots=7)
    together = engine.generate(asked, MIXED)
    torch.set_num_threads(1)
    alike(together, Engine(make(), slots=7).generate(asked, MIXED))


def test_shared_rows_follow_training(threads):
    model = make()
    engine = Engine(model)
    engine.generate(prompts(4) * 6, Sampling(4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    asked, how = prompts(4, 5, 6, 7, 8, 9), Sampling(9, seed=2)
    alike(engine.generate(asked, how), Engine(model).generate(asked, how))


def test_rows_that_cannot_stop_are_looked_at_once_in_eight_steps(threads, monkeypatch):
    found = parts(monkeypatch)
    Engine(make()).generate(prompts(4) * 6, Sampling(20))
    assert [steps for start, _, steps in found if not start] == [8, 8, 4]


def test_all_threads_stay_as_they_were(threads, monkeypatch):
    def broken(self, rows, start, spans, use):
        raise RuntimeError("broken")

    engine = Engine(make())
    engine.generate(prompts(4) * 6, Sampling(4))
    assert torch.get_num_threads() == 2
    monkeypatch.setattr(SharedRoom, "_part", broken)
    with pytest.raises(RuntimeError, match="broken"):
        engine.generate(prompts(4) * 6, Sampling(4))
    assert torch.get_num_threads() == 2


def test_a_large_model_is_not_shared(threads, monkeypatch):
    monkeypatch.setattr(share, "SMALL", 100)
    found = parts(monkeypatch)
    Engine(make()).generate(prompts(4) * 6, Sampling(4))
    assert not found


@pytest.mark.parametrize("alone", [True, False])
def test_few_rows_of_a_small_model_take_one_core(threads, monkeypatch, alone):
    found, plain = set(), SharedRoom.decode

    def counted(self, *given):
        found.add(torch.get_num_threads())
        plain(self, *given)

    monkeypatch.setattr(SharedRoom, "decode", counted)
    monkeypatch.setattr(share, "ALONE", 10**9 if alone else 1)
    Engine(make()).generate(prompts(4, 5, 6), Sampling(4))
    assert found == {1 if alone else 2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shared_step_is_the_plain_one(dtype, monkeypatch):
    """TorchScript's advance does what Python's does, bit by bit."""
    asked, how = prompts(4, 5, 6, 7), Sampling(9, seed=2)
    monkeypatch.setattr(share, "LEAST", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    scripted = Engine(make(), dtype=dtype).generate(asked, how)
    monkeypatch.setattr(share, "scripted", lambda: advance)
    plain = Engine(make(), dtype=dtype).generate(asked, how)
    torch.set_num_threads(before)
    assert [(a.ids, a.logps) for a in scripted] == [(a.ids, a.logps) for a in plain]
