"""Triton: log-probability of a target and entropy of rows of logits, and both gradients in their place; CUDA only.

One program a row. Plain torch makes about ten tensors [rows, V] in float32 for the same.
"""

from typing import Any

import torch
from torch import Tensor

from pronk.models.jit import constexpr, jit, power, tl
from pronk.models.kernels_loss import width

BLOCK = 16_384  # columns in registers at a time


@jit
def _read(
    logits: "Any", targets: "Any", found: "Any", scale: "Any", stride: "Any", N: "Any",
    V: "constexpr", WIDTH: "constexpr", BLOCK: "constexpr",
) -> None:  # fmt: skip
    row = tl.program_id(0)
    place = logits + row.to(tl.int64) * stride
    chosen = tl.load(place + tl.load(targets + row)).to(tl.float32) * scale
    highest, total = float("-inf"), 0.0
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(place + columns, mask=columns < WIDTH, other=float("-inf")).to(tl.float32) * scale
        x = tl.where(columns < V, x, float("-inf"))
        peak = tl.maximum(highest, tl.max(x, 0))
        total = total * tl.exp(highest - peak) + tl.sum(tl.exp(x - peak), 0)
        highest = peak
    log_sum, entropy = highest + tl.log(total), 0.0
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(place + columns, mask=columns < WIDTH, other=0.0).to(tl.float32) * scale - log_sum
        entropy -= tl.sum(tl.where((columns < V) & (x > -80.0), tl.exp(x) * x, 0.0), 0)
    tl.store(found + row, chosen - log_sum)
    tl.store(found + N + row, entropy)
    tl.store(found + 2 * N + row, log_sum)


@jit
def _spend(
    logits: "Any", targets: "Any", found: "Any", wanted: "Any", scale: "Any", stride: "Any", N: "Any",
    V: "constexpr", WIDTH: "constexpr", BLOCK: "constexpr",
) -> None:  # fmt: skip
    row = tl.program_id(0)
    place = logits + row.to(tl.int64) * stride
    target = tl.load(targets + row)
    entropy, log_sum = tl.load(found + N + row), tl.load(found + 2 * N + row)
    of_logp, of_entropy = tl.load(wanted + row), tl.load(wanted + N + row)
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(place + columns, mask=columns < WIDTH, other=0.0).to(tl.float32) * scale - log_sum
        chance = tl.exp(x)
        slope = of_logp * (tl.where(columns == target, 1.0, 0.0) - chance)
        slope -= of_entropy * tl.where(x > -80.0, chance * (x + entropy), 0.0)
        tl.store(place + columns, tl.where(columns < V, slope * scale, 0.0), mask=columns < WIDTH)


def read(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """[3, N] float32 of logits [N, V] and targets [N]: log-probability of the target and entropy, nats, under
    softmax(logits / temperature), and the logarithm of that softmax's sum, which `spend` needs. logits may be the first
    columns of wider rows."""
    N, V = logits.shape
    found = torch.empty(3, N, dtype=torch.float32, device=logits.device)
    if N:
        rest = (1 / temperature, logits.stride(0), N, V, width(logits), min(BLOCK, power(V)))
        _read[(N,)](logits, targets, found, *rest, num_warps=16)
    return found


def spend(logits: Tensor, targets: Tensor, found: Tensor, wanted: Tensor, temperature: float) -> None:
    """Logits become the gradient of what `read` found. wanted [2, N]: gradients of log-probabilities and entropies.

    A few columns after them in wider rows become zeros, see kernels_loss.width."""
    N, V = logits.shape
    if N:
        rest = (1 / temperature, logits.stride(0), N, V, width(logits), min(BLOCK, power(V)))
        _spend[(N,)](logits, targets, found, wanted, *rest, num_warps=16)
