"""Floors found without a sort against sampler.py's rules, which sort: the same tokens stay, in every mix of rows."""

import torch
from models.interpret import DEVICE  # before any kernel

# isort: split

import pytest

from pronk.engine import kernels_filter
from pronk.engine.kernels_sampler import advance
from pronk.engine.rows import Rows
from pronk.engine.sampler import heat, keep_min_p, keep_top_k, keep_top_p, penalize
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


def tempered(logits, rows):
    """Logits after penalty and temperature, and what the kernel keeps; what is beyond the vocabulary is never read."""
    wide = torch.cat([logits, torch.full((len(logits), 3), torch.nan, device=logits.device)], 1)[:, : rows.vocab]
    floors, lasts = (column[:, None] for column in kernels_filter.cut(wide, rows, len(logits)))
    x = heat(penalize(logits.float(), rows.rules(len(logits)).penalty, rows.seen), rows.rules(len(logits)).temperature)
    ids = torch.arange(rows.vocab, device=DEVICE)
    return x, ~((x < floors) | ((x == floors) & (ids > lasts))) & (x > float("-inf"))


def compare(kind, vocab):
    """The same logits stay as by the rules in float64, where a running sum of thousands of equal chances is right too;
    of equal logits at top-p's border the first by id, where a sort keeps any."""
    rows = filled(vocab)
    logits = kind(torch.randn(len(RULES), vocab, generator=torch.Generator().manual_seed(0))).to(DEVICE)
    x, found = tempered(logits, rows)
    rules = rows.rules(len(RULES))
    top = keep_top_k(x.double(), rules.top_k)
    sorts = keep_min_p(keep_top_p(top, rules.top_p), rules.min_p) > float("-inf")
    chances = top.sort(-1, descending=True).values.softmax(-1)
    unsure = ((chances.cumsum(-1) - chances - rules.top_p).abs() < 1e-6).sum(-1)
    for row, one in enumerate(RULES):
        have, want = (x[row][stay].sort(descending=True).values for stay in (found[row], sorts[row]))
        assert abs(len(have) - len(want)) <= unsure[row], (one, len(have), len(want))
        assert torch.equal(have[: len(want)], want[: len(have)]), one
        tied = found[row][x[row] == have[-1]].tolist()
        assert tied == sorted(tied, reverse=True), one


@pytest.mark.parametrize(("vocab", "held"), [(13, True), (300, True), (13, False), (300, False)])
@pytest.mark.parametrize("kind", SHAPES.values(), ids=SHAPES)
def test_the_tokens_kept_are_those_of_the_rules(kind, vocab, held, monkeypatch):
    """Vocabularies that fill one piece, or several and part of another; held or read again."""
    monkeypatch.setattr(kernels_filter, "BLOCK", 64)
    monkeypatch.setattr(kernels_filter, "HELD", 1000 if held else 0)
    compare(kind, vocab)


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
