"""Adapters: off they are nothing, merged they are the same, and only they train (pitfall 26)."""

import hashlib

import pytest
import torch
from torch import nn

from pronk.data.batch import Batch
from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.errors import UserError
from pronk.learn.learner import Learner
from pronk.learn.losses import cross_entropy
from pronk.learn.optim import OptimConfig
from pronk.models.logps import logits
from pronk.models.lora import Adapted, Base, LoraConfig, adapted, attach, merged, merged_state, switched_off, twin

from .make import gap, make, tokens

IDS = tokens(2, 20)
PLAIN = OptimConfig("sgd", lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant", warmup=0, clip=0.0)


def with_adapters(rank=4, shaken=True, **keys):
    """A model whose adapters already do something, unless told otherwise."""
    model = make(**keys)
    attach(model, LoraConfig(rank, alpha=8.0), seed=1)
    if shaken:
        generator = torch.Generator().manual_seed(2)
        for module in model.modules():
            if isinstance(module, Adapted):
                nn.init.normal_(module.lora_b, std=0.1, generator=generator)
    return model


def digest(model):
    """Of all weights but the adapters'."""
    parts = (p.detach().numpy().tobytes() for name, p in model.named_parameters() if "lora_" not in name)
    return hashlib.sha256(b"".join(parts)).hexdigest()


def batch():
    return Batch(IDS[:, :-1], IDS[:, 1:])


def step(model, loss=cross_entropy, config=PLAIN, times=1):
    learner = Learner(model, config, 100)
    for _ in range(times):
        learner.step(batch(), loss)
    return model


GPT2 = {"norm": "layer", "positions": "learned", "feedforward": "gelu", "attention_bias": "all"}


@pytest.mark.parametrize("keys", [{}, {"kv_heads": 2}, {"feedforward": "swiglu-single"}, {"tied": False}, GPT2])
def test_merged_weights_compute_the_same(keys):
    model = with_adapters(**keys)
    plain = merged(model)
    assert not adapted(plain) and adapted(model)
    assert gap(logits(model, IDS), logits(plain, IDS)) < 1e-5
    assert gap(logits(model, IDS), logits(make(**keys), IDS)) > 1e-2
    fresh = make(seed=3, **keys)
    fresh.load_state_dict(merged_state(model))
    assert gap(logits(fresh, IDS), logits(plain, IDS)) == 0
    assert merged(fresh) is fresh


def test_new_adapters_change_nothing():
    assert gap(logits(with_adapters(shaken=False), IDS), logits(make(), IDS)) == 0


def test_lora_reference_is_the_base_model():
    """Switched off, logits are the base model's, whatever was trained; its weights are not touched (pitfall 26)."""
    model = with_adapters(shaken=False)
    before, base = digest(model), logits(make(), IDS)
    reference = Base(model)
    assert list(reference.parameters()) == []
    step(model, config=OptimConfig(lr=1e-2, warmup=0), times=5)
    assert gap(logits(model, IDS), base) > 1e-2
    assert gap(logits(reference, IDS), base) == 0
    with switched_off(model):
        assert gap(logits(model, IDS), base) == 0
    assert gap(logits(model, IDS), base) > 1e-2  # and on again
    assert digest(model) == before == digest(make())


def test_adapters_are_on_again_after_an_error():
    model = with_adapters()
    with pytest.raises(ValueError), switched_off(model):
        raise ValueError
    assert all(module.active for module in model.modules() if isinstance(module, Adapted))


def test_only_adapters_get_gradients_and_move():
    model = with_adapters(shaken=False)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(name.endswith(("lora_a", "lora_b")) for name in trained)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    total, _, _ = cross_entropy(model(IDS[:, :-1]), batch())
    total.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trained
    model.zero_grad()
    step(model, times=2)  # A moves from the second step on: its gradient is B's multiple, and B begins at zero
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == trained


def test_a_full_rank_adapter_steps_as_full_training_does():
    """With A = I and alpha = rank, B's gradient is the whole matrix's: the same step of gradient descent."""
    whole, model = make(), make()
    attach(model, LoraConfig(32, alpha=32.0, targets=("q", "o", "up")))
    chosen = {name for name, module in model.named_modules() if isinstance(module, Adapted)}
    assert len(chosen) == 9
    for name, module in model.named_modules():
        if name in chosen:
            module.lora_a = nn.Parameter(torch.eye(32), requires_grad=False)
    for name, parameter in whole.named_parameters():
        parameter.requires_grad_(name.removesuffix(".weight") in chosen)
    before = {name: p.detach().clone() for name, p in whole.named_parameters()}
    step(whole)
    state = merged_state(step(model))
    for name, parameter in whole.named_parameters():
        assert gap(state[name], parameter) < 1e-6
        assert (gap(parameter, before[name]) > 1e-4) == (name.removesuffix(".weight") in chosen)


def test_targets_choose_by_name():
    model = make()
    attach(model, LoraConfig(2, targets=("q", "v")))
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, Adapted)}
    assert names == {"q", "v"}


@pytest.mark.parametrize(
    ("keys", "config", "said"),
    [
        ({}, {"rank": 2, "targets": ("query",)}, "no such layer; there are down, gate, k, o, q, up, v"),
        ({"family": "lstm"}, {"rank": 2}, "no linear layers"),
        ({}, {"rank": -1}, "--lora.rank -1"),
        ({}, {"rank": 2, "alpha": 0.0}, "--lora.alpha 0"),
        ({}, {"targets": ("q",)}, "--lora.rank is 0"),
    ],
)
def test_mistakes_are_named(keys, config, said):
    model = make(**keys)
    with pytest.raises(UserError, match=said):
        attach(model, LoraConfig(**config))
    assert all(p.requires_grad for p in model.parameters())


def test_rank_zero_is_off():
    model = make()
    attach(model, LoraConfig())
    assert not adapted(model) and all(p.requires_grad for p in model.parameters())


def test_the_engine_sees_merged_weights():
    """And new ones once they are loaded; the trained model itself keeps its adapters."""
    model = with_adapters()
    engine = Engine(model, slots=4)
    assert not adapted(engine.model)
    greedy = Sampling(12, 0.0)

    def said(engine):
        return [found.ids for found in engine.generate(IDS[:, :5].tolist(), greedy)]

    assert said(engine) == said(Engine(merged(model), slots=4))
    step(model, config=OptimConfig(lr=3e-2, warmup=0), times=5)
    old = said(engine)
    engine.load(model)
    assert said(engine) == said(Engine(merged(model), slots=4)) != old
    assert adapted(model)
    own = engine.score(IDS.tolist())
    there = model(IDS[:, :-1])
    ours = torch.log_softmax(there.head(there.hidden), -1).gather(2, IDS[:, 1:, None])[..., 0]
    assert gap(torch.tensor(own), ours) < 1e-4


def test_a_twin_shares_what_is_frozen_and_owns_its_adapters():
    model = with_adapters()
    other = twin(model)
    pairs = zip(model.named_parameters(), other.named_parameters(), strict=True)
    assert all((a is b) == ("lora_" not in name) for (name, a), (_, b) in pairs)
    assert gap(logits(model, IDS), logits(other, IDS)) == 0
