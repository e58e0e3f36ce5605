"""Values beside logits, from a separate critic or a shared body; heads start small."""

import math

import pytest
import torch

from pronk.models.heads import ActorCritic, Scorer, ValueHead, disable_dropout
from pronk.models.logps import logits

from .make import gap, make, tokens


def test_separate_larger_critic():
    policy, body = make(), make(1, width=48, layers=4, heads=6)
    both = ActorCritic(policy, Scorer(body, 48))
    x = tokens(2, 10)
    output = both(x)
    assert gap(output.head(output.hidden), logits(policy, x)) == 0
    assert gap(output.values, both.critic.value(body(x).hidden)) == 0
    assert output.values.shape == (2, 10)
    output.values.sum().backward()
    assert all(p.grad is None for p in policy.parameters())
    assert body.embed.weight.grad is not None


def test_value_head_on_the_shared_body():
    policy, x = make(family="lstm"), tokens(2, 10)
    both = ActorCritic(policy, width=32)
    output = both(x)
    assert gap(output.head(output.hidden), logits(policy, x)) < 1e-5
    assert output.values.shape == (2, 10)
    output.values.sum().backward()
    assert policy.embed.weight.grad is not None


def test_shared_head_needs_a_width():
    with pytest.raises(ValueError, match="needs the policy's width"):
        ActorCritic(make())


def test_critic_sees_positions_and_documents():
    both, x = ActorCritic(make(), Scorer(make(1), 32)), tokens(1, 6)
    positions, documents = torch.tensor([[0, 1, 2, 0, 1, 2]]), torch.tensor([[0, 0, 0, 1, 1, 1]])
    assert gap(both(x, positions=positions, documents=documents).values[:, 3:], both(x[:, 3:]).values) < 1e-5


def test_state_is_the_policys():
    state = ActorCritic(make(), Scorer(make(1, layers=5), 32)).new_state(2, 8)
    assert [keys.shape for keys in state.keys] == 3 * [(2, 4, 9, 8)]


def test_value_head_starts_with_std_one_over_root_of_width_plus_one():
    torch.manual_seed(0)
    head = ValueHead(4095)
    assert head.weight.std().item() == pytest.approx(1 / math.sqrt(4096), rel=0.05)
    assert head.bias.item() == 0


@pytest.mark.parametrize("keys", [{}, {"family": "lstm"}])
def test_dropout_off_gives_two_equal_forwards_in_train_mode(keys):
    model, x = make(dropout=0.5, **keys).train(), tokens(2, 10)
    assert gap(model(x).hidden, model(x).hidden) > 0.1
    disable_dropout(model)
    assert torch.equal(model(x).hidden, model(x).hidden)
    assert torch.equal(model(x).hidden, model.eval()(x).hidden)


@pytest.mark.parametrize("keys", [{}, {"family": "lstm"}])
def test_tied_head_is_the_embedding(keys):
    tied, untied = make(**keys), make(tied=False, **keys)
    assert tied.head.weight is tied.embed.weight
    assert untied.head.weight is not untied.embed.weight
