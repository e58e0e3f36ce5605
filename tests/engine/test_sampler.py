"""Each rule against transformers' and against a loop over one row; the draw against its own probabilities."""

import pytest
import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pronk.engine.philox import uniforms
from pronk.engine.sampler import (
    Use,
    distribution,
    draw,
    heat,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize,
    sample,
)

from .make import ALL, rules


def logits(rows=4, vocab=53, seed=0, scale=2.5):
    return scale * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def column(value, rows=4):
    return torch.full((rows, 1), value)


@pytest.mark.parametrize("k", [1, 5, 52])
def test_top_k_equals_transformers(k):
    x = logits()
    assert torch.equal(keep_top_k(x, column(k)), TopKLogitsWarper(k)(None, x))


@pytest.mark.parametrize("p", [0.01, 0.5, 0.9, 0.999])
def test_top_p_equals_transformers(p):
    x = logits()
    assert torch.equal(keep_top_p(x, column(p)), TopPLogitsWarper(p)(None, x))


@pytest.mark.parametrize("p", [0.001, 0.1, 1.0])
def test_min_p_equals_transformers(p):
    x = logits()
    assert torch.equal(keep_min_p(x, column(p)), MinPLogitsWarper(p)(None, x))


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_penalty_equals_transformers(penalty):
    x, text = logits(), torch.randint(53, (4, 9))
    seen = torch.zeros(4, 53, dtype=torch.bool).scatter(1, text, True)
    wanted = RepetitionPenaltyLogitsProcessor(penalty)(text, x.clone())
    assert torch.allclose(penalize(x, column(penalty), seen), wanted)


def test_rules_that_are_off_leave_a_row_bit_identical():
    x, seen = logits(), torch.ones(4, 53, dtype=torch.bool)
    assert torch.equal(distribution(x, rules(4), ALL, seen), x.log_softmax(-1))
    assert torch.equal(heat(x, column(0.0)), x)


def test_rows_keep_their_own_rules():
    x, each = logits(3), [(0.5, 7, 1.0, 0.0), (1.0, 0, 0.8, 0.0), (2.0, 0, 1.0, 0.2)]
    mixed = rules(3, *(torch.tensor(values) for values in zip(*[(t, k or 53, p, m) for t, k, p, m in each])))
    together = distribution(x, mixed, Use(top_k=True, top_p=True, min_p=True))
    for row, one in enumerate(each):
        alone = distribution(x[row : row + 1], rules(1, *one), Use(top_k=True, top_p=True, min_p=True))
        assert torch.allclose(together[row], alone[0])
        assert together[row].exp().sum() == pytest.approx(1)


def test_draw_meets_the_borders():
    logps = torch.tensor([[float("-inf"), 0.5, 0.0, 0.5, 0.0]]).log_softmax(-1)
    logps[0, 2] = logps[0, 4] = float("-inf")
    assert draw(logps, torch.tensor([[2.0**-24]])) == 1
    assert draw(logps, torch.tensor([[0.5]])) == 1
    assert draw(logps, torch.tensor([[0.6]])) == 3
    assert draw(logps, torch.tensor([[1.0]])) == 3


@pytest.mark.parametrize("vocab", [5, 53, 4099])
def test_draw_never_meets_a_token_without_probability(vocab):
    x = keep_top_k(logits(64, vocab), column(3, 64)).log_softmax(-1)
    for last in (2.0**-24, 1 - 2.0**-24, 1.0):
        assert x.gather(1, draw(x, column(last, 64))).isfinite().all()


@pytest.mark.parametrize(
    "one",
    [
        {"temperature": 0.7},
        {"temperature": 1.6},
        {"top_k": 6},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"penalty": 1.8},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "penalty": 1.2},
    ],
    ids=str,
)
def test_frequencies_match_the_probabilities(one):
    """Chi-square of 40,000 draws against exp(logp), for each rule and for all of them."""
    N = 40_000
    x = logits(1, 20, seed=3, scale=1.2).expand(N, -1)
    seen = torch.zeros(N, 20, dtype=torch.bool)
    seen[:, ::3] = True
    r = rules(N, vocab=20, **one)
    logps = distribution(x, r, ALL, seen)
    numbers = uniforms(torch.full((N, 1), 11), torch.arange(N)[:, None])
    tokens, chosen = sample(logps, r.temperature, numbers, Use())
    assert torch.equal(chosen, logps.gather(1, tokens))
    wanted = logps[0].double().exp() * N
    counts = tokens[:, 0].bincount(minlength=20).double()
    support = wanted > 0
    assert (counts[~support] == 0).all()
    statistic = ((counts - wanted)[support] ** 2 / wanted[support]).sum()
    freedom = int(support.sum()) - 1
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


def test_greedy_and_drawn_rows_mix():
    logps, temperature = logits(4).log_softmax(-1), torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    numbers = uniforms(torch.arange(4)[:, None], torch.zeros(4, 1, dtype=torch.int64))
    tokens, _ = sample(logps, temperature, numbers, Use())
    best, drawn = logps.argmax(-1, keepdim=True), draw(logps, numbers)
    assert torch.equal(tokens, torch.where(temperature > 0, drawn, best))
    assert torch.equal(sample(logps, temperature, numbers, Use(sampled=False))[0], best)
    assert torch.equal(sample(logps, temperature, numbers, Use(greedy=False))[0], drawn)
