"""Floors found without a sort against sampler.py's rules, which sort: the same tokens stay, in every mix of rows."""

import torch
from models.interpret import DEVICE  # before any kernel

# isort: split

import pytest

from pronk.engine import kernels_filter
from pronk.engine.kernels_sampler import advance
from pronk.engine.rows import Rows
from pronk.engine.sampler import Use, heat, keep_top_k, penalize, shape
from pronk.engine.sequence import Request, Sampling

RULES = [
    {},
    {"top_k": 1},
    {"top_k": 7},
    {"top_p": 0.95},
    {"top_p": 0.3137},
    {"top_p": 1e-4},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.6, "top_p": 0.9, "temperature": 0.7},
    {"top_k": 30, "top_p": 0.8, "temperature": 1.7},
    {"top_p": 0.9, "min_p": 0.02},
    {"top_k": 50, "top_p": 0.97, "min_p": 0.3, "repetition_penalty": 1.2, "temperature": 0.6},
    {"temperature": 0.0, "repetition_penalty": 1.4, "top_p": 0.5},
]
SHAPES = {
    "random": lambda x: 3 * x,
    "tied": lambda x: (2 * x).round(),
    "bfloat16": lambda x: (3 * x).bfloat16(),
    "peaked": lambda x: torch.where(x >= x.amax(1, keepdim=True), 30.0, 0.01 * x),
    "flat": lambda x: torch.full_like(x, -1.5),
    "far apart": lambda x: x.sign() * x.abs().pow(30).clamp(1e-30, 1e30),
    "forbidden": lambda x: torch.where((x > 1) | (x == x.amax(1, keepdim=True)), x, float("-inf")),
}


def filled(vocab):
    rows = Rows(len(RULES), 24, vocab, 1, torch.device(DEVICE))
    rows.watch()
    rows.enter(0, [Request([1, 2, 5, 7 % vocab], Sampling(seed=0, **one), 0, 20) for one in RULES])
    return rows


def kept(logits, rows, use):
    """What the kernel keeps, of logits whose rows are longer than the vocabulary; what is beyond it is never read."""
    wide = torch.cat([logits, torch.full((len(logits), 3), torch.nan, device=logits.device)], 1)[:, : rows.vocab]
    floors, lasts = kernels_filter.cut(wide, rows, len(logits))
    x = heat(penalize(logits.float(), rows.rules(len(logits)).penalty, rows.seen), rows.rules(len(logits)).temperature)
    ids = torch.arange(rows.vocab, device=DEVICE)
    floors, lasts = floors[:, None], lasts[:, None]
    return x, ~((x < floors) | ((x == floors) & (ids > lasts))) & (x > float("-inf"))


def borders(x, rules):
    """How many tokens' mass before them, in float64, is top_p but for rounding [R]."""
    chances = keep_top_k(x.double(), rules.top_k).sort(-1, descending=True).values.softmax(-1)
    return ((chances.cumsum(-1) - chances - rules.top_p).abs() < 1e-6).sum(-1)


@pytest.mark.parametrize("block", [kernels_filter.BLOCK, 128], ids=["held", "in pieces"])
@pytest.mark.parametrize("vocab", [13, 300])
@pytest.mark.parametrize("kind", SHAPES.values(), ids=SHAPES)
def test_the_tokens_kept_are_those_of_the_rules(kind, vocab, block, monkeypatch):
    """The same logits as by sorting, and of equal ones at the border the first by id, where a sort keeps any."""
    monkeypatch.setattr(kernels_filter, "BLOCK", block)
    use, rows = Use(True, True, True, True, True, True), filled(vocab)
    logits = kind(torch.randn(len(RULES), vocab, generator=torch.Generator().manual_seed(0))).to(DEVICE)
    x, found = kept(logits, rows, use)
    sorts = shape(logits.float(), rows.rules(len(RULES)), use, rows.seen) > float("-inf")
    unsure = borders(x, rows.rules(len(RULES)))
    for row, one in enumerate(RULES):
        have, want = (x[row][stay].sort(descending=True).values for stay in (found[row], sorts[row]))
        assert abs(len(have) - len(want)) <= unsure[row], (one, len(have), len(want))
        assert torch.equal(have[: len(want)], want[: len(have)]), one
        tied = found[row][x[row] == have[-1]].tolist()
        assert tied == sorted(tied, reverse=True), one


def test_rules_that_are_off_and_neighbours_with_rules_change_no_bit():
    """Of a row's token and log-probability."""
    vocab, logits = 1000, 3 * torch.randn(3, 1000, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    found = {}
    for filters in (False, True):
        rows = Rows(3, 24, vocab, 1, torch.device(DEVICE))
        rows.watch()
        rules = [Sampling(), Sampling(top_p=0.5) if filters else Sampling(), Sampling(temperature=0.7)]
        rows.enter(0, [Request([1], s, 3 + at, 20) for at, s in enumerate(rules)])
        advance(logits, rows, 3, filters)
        found[filters] = rows.ids[[0, 2], 1].tolist(), rows.logps[[0, 2], 1].tolist()
    assert found[True] == found[False]


def test_rows_of_nobody_and_logits_that_are_not_finite():
    rows = filled(13)
    rows.positions[3] = -1
    logits = torch.zeros(len(RULES), 13, device=DEVICE)
    logits[:, 4] = torch.tensor([torch.nan, torch.inf] * 7)
    advance(logits, rows, len(RULES), True)
    assert rows.ids[3].max() == 0
    live = [row for row in range(len(RULES)) if row != 3]
    assert not torch.isfinite(rows.logps[live, 4]).any()
    assert rows.ids[live, 4].min() >= 0 and rows.ids[live, 4].max() < 13
