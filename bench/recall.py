"""The recall task of bench/families.py: rows that state facts and ask for them again at known distances.

A row states eight facts, each one token: "key i has value j". Half of them stand among the first 64 tokens, half
anywhere.
A quarter of the other tokens is filler; the rest are questions, each one token: "what was key i?", whose target is j.
Which key is asked at place t: draw a distance, each doubling as likely as another, and take the fact nearest to it.
No question says a value, so all of it must come from the one token `distance` tokens ago; that each fact is one token
makes it a matter of memory alone, not of the circuit that joins a key with the value after it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pronk.data.batch import IGNORE

KEYS = VALUES = 8
QUESTIONS, FILLER = KEYS * VALUES, KEYS * VALUES + KEYS  # where these tokens begin; the facts begin at 0
VOCAB = FILLER + 16
DISTANCES = tuple(2**n for n in range(6, 13))  # of the test: 64 .. 4,096
LONGEST = DISTANCES[-1] + 64  # tokens in a row of the test


class Asked(NamedTuple):
    tokens: Tensor  # [B, T]
    targets: Tensor  # [B, T], IGNORE where nothing is asked
    distances: Tensor  # [B, T], 0 where nothing is asked


def rows(count: int, length: int, chance: torch.Generator) -> Asked:
    """Rows as they are learned from, on the generator's device."""
    places, values = _facts(count, length, chance)
    order = torch.arange(length, device=chance.device)
    wanted = (order.clamp(min=1).float() ** _random((count, length), chance)).round()  # 1 .. t
    far = order[:, None] - places[:, None, :]  # [B, T, keys]
    gap = (far - wanted[:, :, None]).abs().masked_fill(far <= 0, torch.inf)
    nearest, key = gap.min(2)
    tokens = torch.randint(FILLER, VOCAB, (count, length), generator=chance, device=chance.device)
    asks = (_random((count, length), chance) < 0.75) & nearest.isfinite()
    return _stated(torch.where(asks, QUESTIONS + key, tokens), places, values)


def examination(count: int, length: int, distances: tuple[int, ...], seed: int) -> Asked:
    """The same, with each fact asked at exactly these distances too, where the row is long enough; only they count."""
    chance = torch.Generator().manual_seed(seed)
    places, values = _facts(count, length, chance)
    tokens = rows(count, length, chance).tokens
    tokens = torch.where(tokens < QUESTIONS, FILLER, tokens)  # those rows' own facts
    for distance in distances:
        for key in range(KEYS):
            at = places[:, key] + distance
            inside = (at < length).nonzero()[:, 0]
            tokens[inside, at[inside]] = QUESTIONS + key
    asked = _stated(tokens, places, values)
    exact = torch.isin(asked.distances, torch.tensor(distances))
    return Asked(asked.tokens, asked.targets.where(exact, IGNORE), asked.distances.where(exact, 0))


def _random(shape: tuple[int, int], chance: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=chance, device=chance.device)


def _facts(count: int, length: int, chance: torch.Generator) -> tuple[Tensor, Tensor]:
    """Where each key's fact stands, all in different places, and its value, [B, keys]."""
    scores = _random((count, length), chance)
    early = scores[:, :64].topk(KEYS // 2).indices
    late = scores.scatter(1, early, -1.0).topk(KEYS - KEYS // 2).indices
    places = torch.cat((early, late), 1)
    mixed = _random((count, KEYS), chance).argsort(1)
    values = torch.randint(VALUES, (count, KEYS), generator=chance, device=chance.device)
    return places.gather(1, mixed), values


def _stated(tokens: Tensor, places: Tensor, values: Tensor) -> Asked:
    """Tokens with the facts written in, and the answers to those questions that come after their facts."""
    tokens = tokens.scatter(1, places, VALUES * torch.arange(KEYS, device=tokens.device) + values)
    asks = (tokens >= QUESTIONS) & (tokens < FILLER)
    key = (tokens - QUESTIONS).where(asks, 0)
    far = torch.arange(tokens.shape[1], device=tokens.device) - places.gather(1, key)
    asks &= far > 0
    return Asked(tokens, values.gather(1, key).where(asks, IGNORE), far.where(asks, 0))
