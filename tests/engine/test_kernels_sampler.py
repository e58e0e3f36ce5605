"""The kernels that sample against sampler.py, philox.py and step.note: the same tokens, numbers and notes."""

import torch
from models.interpret import DEVICE  # before any kernel

# isort: split

import copy

import pytest

from pronk.engine.kernels_sampler import BLOCK, advance
from pronk.engine.philox import uniforms
from pronk.engine.rows import Rows, note
from pronk.engine.sampler import Use, distribution, sample
from pronk.engine.sequence import Request, Sampling

LENGTH = 24


def table(vocab, samplings):
    """Rows of which each stands somewhere else; one has ended."""
    rows = Rows(len(samplings), LENGTH, vocab, 3, torch.device(DEVICE))
    rows.watch()
    requests = [Request(list(range(1, 3 + at)), s, (s.seed << 40) + at, 12) for at, s in enumerate(samplings)]
    rows.enter(0, requests)
    rows.positions[2] = -1
    rows.lasts[3] = rows.positions[3] + 1
    return rows


def plainly(logits, rows, use):
    rules = rows.rules(len(logits))
    logps = distribution(logits.float(), rules, use, rows.seen)
    picked, chosen = sample(logps, rules.temperature, uniforms(rows.seeds, rows.positions + 1), use)
    note(rows.part(0, len(logits)), picked, chosen, use)


@pytest.mark.parametrize("vocab", [20, 3 * BLOCK + 100])
@pytest.mark.parametrize("filtered", [False, True])
def test_the_same_tokens_numbers_and_notes(vocab, filtered):
    samplings = [Sampling(seed=i, temperature=(0.0, 1.0, 0.7)[i % 3], stop=(3, 2)[: i % 3]) for i in range(8)]
    if filtered:
        samplings[4:] = [
            Sampling(seed=4, top_k=2),
            Sampling(seed=5, top_p=0.3),
            Sampling(seed=6, min_p=0.4, temperature=1.4),
            Sampling(seed=7, repetition_penalty=1.5, temperature=0.0),
        ]
    use = Use(filtered, True, filtered, filtered, filtered, filtered) if filtered else Use()
    rows = table(vocab, samplings)
    other = copy.deepcopy(rows)
    for one in (rows, other):
        one.tokens, one.positions, one.lasts, one.seeds, one.top_k = one.whole.split(1, dim=1)
    for step in range(6):
        logits = 3 * torch.randn(8, vocab, generator=torch.Generator().manual_seed(step)).to(DEVICE)
        plainly(logits, rows, use)
        advance(logits, other, 8, filtered)
        for name in ("whole", "done"):
            assert torch.equal(getattr(rows, name), getattr(other, name)), name
        assert torch.equal(rows.ids[:, :LENGTH], other.ids[:, :LENGTH])
        torch.testing.assert_close(rows.logps[:, :LENGTH], other.logps[:, :LENGTH], atol=1e-5, rtol=1e-5)
        live = rows.positions[:, 0] >= 0
        assert not filtered or torch.equal(rows.seen[live], other.seen[live])
    assert rows.done.any() and not rows.done.all()


def test_every_token_is_drawn_as_often_as_it_should_be():
    """Chi-square over two blocks of a vocabulary of which most tokens are forbidden."""
    vocab, count = BLOCK + 10, 250
    logits = torch.full((count, vocab), float("-inf"))
    logits[:, [0, 5, BLOCK - 1, BLOCK, BLOCK + 9]] = torch.tensor([0.0, 1.0, 2.0, 0.5, 1.5])
    rows = Rows(count, LENGTH, vocab, 1, torch.device(DEVICE))
    rows.enter(0, [Request([1], Sampling(), 7 * seed, 20) for seed in range(count)])
    advance(logits.to(DEVICE), rows, count, False)
    found = torch.bincount(rows.ids[:, 1].cpu(), minlength=vocab)
    wanted = logits[0].softmax(0) * count
    assert found[wanted == 0].sum() == 0
    hit = wanted > 0
    assert ((found[hit] - wanted[hit]) ** 2 / wanted[hit]).sum() < 20


def test_logits_that_are_not_finite_show():
    for wrong in (float("nan"), float("inf")):
        rows = Rows(1, LENGTH, 7, 1, torch.device(DEVICE))
        rows.enter(0, [Request([1], Sampling(), 3, 20)])
        advance(torch.tensor([[0.0, wrong, 1.0, 2.0, 0.0, 0.0, 0.0]], device=DEVICE), rows, 1, False)
        assert 0 <= rows.ids[0, 1] < 7
        assert not torch.isfinite(rows.logps[0, 1])
