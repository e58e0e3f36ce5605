"""A twin gives what its model gives: every shape it knows, fresh and later forwards, and the weights of the moment."""

import pytest
import torch
from torch import nn

from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.engine.twin import Twin, known, quicken
from pronk.models.heads import ActorCritic, Scorer

from .make import V, make, prompts

SHAPES = {
    "mha": {},
    "gqa": {"kv_heads": 2},
    "mqa": {"kv_heads": 1},
    "untied": {"tied": False},
    "single": {"feedforward": "swiglu-single"},
    "own head size": {"head_dim": 12, "kv_heads": 2},
    "scaled rotary": {"rope_factor": 8.0, "rope_original": 32},
    "another eps": {"norm_eps": 1e-2},
}
shapes = pytest.mark.parametrize("keys", SHAPES.values(), ids=SHAPES)


@torch.no_grad()
def told(run, state):
    """Logits of three rows: prompts of unequal length, then one token each, one row left out."""
    tokens = torch.randint(V, (3, 9), generator=torch.Generator().manual_seed(5))
    positions = torch.arange(9).expand(3, 9).clone()
    positions[1, 6:], positions[2, 1:] = -1, -1
    output = run(tokens, positions=positions, state=state.select(slice(1, 4), 9, fresh=True))
    found = [output.head(output.hidden)[positions >= 0]]
    ends = positions.amax(1, keepdim=True)
    for step in range(1, 4):
        places = ends + step
        places[1] = -1 if step == 2 else places[1]
        output = run(tokens[:, step : step + 1], positions=places, state=state.select(slice(1, 4), 16))
        found.append(output.head(output.hidden)[places >= 0])
    return torch.cat(found)


def alike(model, runs=None):
    twin = quicken(model, runs)
    assert isinstance(twin, Twin)
    torch.testing.assert_close(
        told(twin, twin.new_state(5, 16)), told(model, model.new_state(5, 16)), atol=1e-5, rtol=1e-5
    )
    return twin


@shapes
def test_a_twin_gives_the_models_logits(keys):
    alike(make(**keys))


@shapes
def test_a_twin_in_bfloat16_is_as_near_as_the_model(keys):
    exact = make(**keys)
    model = make(**keys).bfloat16()
    for own, other in zip(exact.parameters(), model.parameters()):
        own.data.copy_(other)
    wanted = told(exact, exact.new_state(5, 16))
    twin = quicken(model)
    off = (told(twin, twin.new_state(5, 16)) - wanted).abs().mean()
    assert off < 1.5 * (told(model, model.new_state(5, 16)) - wanted).abs().mean()


@shapes
def test_the_engine_gives_the_same_with_a_twin_and_without(keys, monkeypatch):
    asked = prompts(5, 1, 17, 9)
    fast = Engine(make(**keys)).generate(asked, Sampling(20, seed=1))
    monkeypatch.setattr("pronk.engine.twin.PARTS", set())
    plain = Engine(make(**keys))
    for a, b in zip(fast, plain.generate(asked, Sampling(20, seed=1))):
        assert a.ids == b.ids
        torch.testing.assert_close(a.logps, b.logps, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("keys", [{}, {"feedforward": "swiglu-single", "tied": False}], ids=["swiglu", "single"])
def test_a_twin_follows_training_without_load(fused, keys):
    model = make(**keys)
    twin = alike(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=fused)
    for _ in range(2):
        output = model(torch.tensor(prompts(8)))
        output.head(output.hidden).square().mean().backward()
        optimizer.step()
        assert alike(model, twin) is twin


def test_a_twin_follows_writes_behind_autograds_back():
    model = make()
    twin = alike(model)
    for parameter in model.parameters():
        parameter.data.mul_(1.1)
        parameter.data = parameter.data.clone()
    assert alike(model, twin) is twin
    alike(model.double(), twin)


def test_a_twin_follows_load():
    engine = Engine(make())
    before = engine.generate(prompts(4), Sampling(10, seed=1))
    for other in (make(1), make(2)):
        engine.load(other)
        (done,) = engine.generate(prompts(4), Sampling(10, seed=1))
        (wanted,) = Engine(other).generate(prompts(4), Sampling(10, seed=1))
        assert done.ids == wanted.ids != before[0].ids


def test_an_actor_critics_policy_has_a_twin():
    both = ActorCritic(make(), Scorer(make(1, width=64), 64))
    engine = Engine(both)
    engine.generate(prompts(4), Sampling(2))
    assert isinstance(engine._runs, Twin)


class Other(nn.Linear):
    """Stands for an adapter."""


def wrapped(model):
    model.blocks[1].attention.v = Other(32, 32, bias=False)


def hooked(model):
    model.blocks[0].register_forward_hook(lambda *_: None)


def biased(model):
    model.blocks[0].attention.o = nn.Linear(32, 32)


def knob(model):
    object.__setattr__(model.config, "family", "another")


@pytest.mark.parametrize("change", [wrapped, hooked, biased, knob])
def test_what_a_twin_does_not_know_runs_itself(change):
    model = make()
    twin = alike(model)
    change(model)
    assert not known(model)
    assert quicken(model, twin) is model


def test_other_families_run_themselves():
    model = make(family="lstm")
    assert quicken(model) is model
