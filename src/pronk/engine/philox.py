"""Random numbers that depend on a seed and a position alone: Philox-4x32-10 (Salmon et al. 2011) in torch's int64."""

import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
LOW = 0xFFFFFFFF
Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Four random words from four counter and two key words; each is an int64 tensor holding 32 bits."""
    a, b, c, d = counter
    left, right = key
    for _ in range(ROUNDS):
        first, second = a * MULTIPLIERS[0], c * MULTIPLIERS[1]  # 64 bits; int64 wraps, the bits are right
        a, b, c, d = (second >> 32 & LOW) ^ b ^ left, second & LOW, (first >> 32 & LOW) ^ d ^ right, first & LOW
        left, right = left + KEY_STEPS[0] & LOW, right + KEY_STEPS[1] & LOW
    return a, b, c, d


def uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """One number in (0, 1] for each seed and position (int64, shapes that broadcast), float32 of 24 random bits."""
    zero = torch.zeros_like(positions)
    word = philox((positions & LOW, positions >> 32, zero, zero), (seeds & LOW, seeds >> 32))[0]
    return ((word >> 8) + 1).float() * 2.0**-24


def derive(seeds: Tensor, indices: Tensor) -> Tensor:
    """A seed of its own for each index [N]; index 0 keeps the seed itself."""
    zero = torch.zeros_like(indices)
    low, high, _, _ = philox((indices & LOW, indices >> 32, zero, zero + 1), (seeds & LOW, seeds >> 32))
    return torch.where(indices == 0, seeds, (high >> 1) << 32 | low)
