"""Supervised and preference losses on batches whose answer is known."""

import math

import pytest
import torch

from pronk.data.batch import IGNORE
from pronk.learn.losses import cross_entropy, dpo, sequence_logps

from .toys import FAMILIES, copy_of, learner, model, pairs, text, weights


def test_log_probability_of_a_token_comes_from_the_place_before():
    """A brute-force loop on a vocabulary of five, token by token (pitfall 1)."""
    module = model(vocab=5)
    row = [1, 4, 2, 2, 0, 3]
    wanted = 0.0
    for place in range(1, len(row)):
        output = module(torch.tensor([row[:place]]))  # sees nothing from `place` on
        scores = output.head(output.hidden)[0, -1].double()
        wanted += (scores[row[place]] - torch.log(sum(torch.exp(s) for s in scores))).item()
    tokens = torch.tensor([row[:-1]])
    assert sequence_logps(module(tokens), torch.tensor([row[1:]])).item() == pytest.approx(wanted, abs=1e-5)


def test_sources_of_a_mixture_have_losses_of_their_own():
    module, batch = model(), text()
    batch.sources = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1])
    batch.source_names = ("stories", "code")
    found = learner(module, micro_batch=3).step(batch, cross_entropy)
    for index, name in enumerate(batch.source_names):
        mine = batch.sources == index
        targets = batch.targets[mine]
        with torch.no_grad():
            total = -sequence_logps(model()(batch.tokens[mine]), targets).sum()
        assert found[f"loss/{name}"] == pytest.approx((total / (targets != IGNORE).sum()).item(), abs=1e-5)
    assert found["loss/stories"] != pytest.approx(found["loss/code"], abs=1e-3)


@pytest.mark.parametrize("dense", [False, True])
def test_sources_may_differ_within_a_row(dense):
    module, batch = model(), text()
    batch.dense = dense
    batch.sources = (torch.arange(batch.tokens.shape[1]) >= 4).long().expand_as(batch.tokens)
    batch.source_names = ("early", "late")
    _, count, found = cross_entropy(module(batch.tokens), batch)
    assert found["loss/early"].weight == (batch.targets[:, :4] != IGNORE).sum()
    assert found["loss/early"].weight + found["loss/late"].weight == count
    total = found["loss/early"].total + found["loss/late"].total
    assert total.item() == pytest.approx(found["loss"].total.item(), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_dpo_starts_at_ln_2_with_accuracy_one_half(family):
    """Policy = reference: the loss is ln 2; equal rewards count as half right (pitfall 44)."""
    module, batch = model(family), pairs()
    with torch.no_grad():
        batch.ref_logps = sequence_logps(module(**batch.inputs()), batch.targets.flatten(0, 1)).view(-1, 2)
        total, count, found = dpo(0.1)(module(**batch.inputs()), batch)
    assert count == 4
    assert total.item() / 4 == pytest.approx(math.log(2), abs=1e-6)
    assert found["accuracy"].total.item() / 4 == 0.5
    assert found["margin"].total.item() == 0.0
    assert found["chosen_logp"].total.item() == pytest.approx(batch.ref_logps[:, 0].sum().item(), rel=1e-6)


def test_dpo_makes_the_chosen_likelier_than_the_rejected():
    module, batch = model(), pairs()
    reference = copy_of(module)
    with torch.no_grad():
        batch.ref_logps = sequence_logps(reference(**batch.inputs()), batch.targets.flatten(0, 1)).view(-1, 2)
    trained = learner(module)
    found = [trained.step(batch, dpo(0.5)) for _ in range(8)]
    assert found[-1]["accuracy"] == 1.0
    assert found[-1]["margin"] > 0.5
    assert found[-1]["loss"] < found[0]["loss"]
    assert found[-1]["chosen_reward"] > found[-1]["rejected_reward"]


def test_dpo_sums_over_the_response_only():
    """Prompt tokens weigh nothing: other prompts' targets are ignored, and the prompt's logits get no gradient."""
    module, batch = model(), pairs()
    output = module(**batch.inputs())
    output.hidden.retain_grad()
    dpo(0.3)(output, batch)[0].backward()
    learned = batch.targets.flatten(0, 1) != IGNORE
    assert output.hidden.grad[~learned].abs().max() == 0
    assert (output.hidden.grad[learned].abs().sum(-1) > 0).all()
    targets = batch.targets.flatten(0, 1)
    summed = sequence_logps(output, targets)
    each = output.head(output.hidden).log_softmax(-1)
    for row in range(len(targets)):
        places = [(t, target) for t, target in enumerate(targets[row].tolist()) if target != IGNORE]
        assert summed[row].item() == pytest.approx(sum(each[row, t, x].item() for t, x in places), abs=1e-4)


def test_dpo_gradient_pushes_by_one_minus_the_confidence():
    """Finite differences of the loss in one weight of the head, against backward."""
    module, batch = model(tied=False), pairs()
    loss = dpo(0.4)
    loss(module(**batch.inputs()), batch)[0].backward()
    place = divmod(int(module.head.weight.grad.abs().argmax()), module.head.weight.shape[1])
    found = module.head.weight.grad[place].item()
    ends = []
    with torch.no_grad():
        for step in (1e-2, -2e-2):
            module.head.weight[place] += step
            ends.append(loss(module(**batch.inputs()), batch)[0].item())
    assert found == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=2e-2)


@pytest.mark.parametrize("loss_batch", [(cross_entropy, text), (dpo(), pairs)])
def test_losses_do_not_write_into_their_batch(loss_batch):
    loss, make = loss_batch
    module, batch, kept = model(), make(), make()
    before = weights(module)
    total, count, metrics = loss(module(**batch.inputs()), batch)
    assert torch.equal(batch.tokens, kept.tokens)
    assert torch.equal(batch.targets, kept.targets)
    assert all(not m.total.requires_grad and not m.weight.requires_grad for m in metrics.values())
    assert not count.requires_grad and total.requires_grad
    assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())


@pytest.mark.parametrize("dense", [False, True])
def test_an_all_masked_batch_has_loss_zero_and_moves_nothing(dense):
    """Not NaN: neither the loss, nor the weights after a step (pitfall 41)."""
    module, batch = model(), text()
    batch.targets, batch.dense = torch.full_like(batch.targets, IGNORE), dense
    before = weights(module)
    found = learner(module).step(batch, cross_entropy)
    assert found["loss"] == 0.0 and found["grad_norm"] == 0.0
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())
