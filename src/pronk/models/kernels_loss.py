"""Triton: negative log-likelihoods of rows of logits, and their gradient in the logits' own place; CUDA only.

One program a row. In plain torch the same takes seven passes over [rows, V] in float32; this takes two in the logits'
own type, of which the second finds most of a row in the GPU's cache (LOG.md).
"""

import math
from typing import Any

import torch
from torch import Tensor

from pronk.models.jit import ceil, constexpr, jit, power, tl

EVEN = 16  # columns that are read and written together
LOG2E = math.log2(math.e)


@jit
def _spend(
    logits: "Any", targets: "Any", keep: "Any", losses: "Any", stride: "Any",
    V: "constexpr", WIDTH: "constexpr", KEEPS: "constexpr", WANTS: "constexpr", LOG2E: "constexpr", BLOCK: "constexpr",
) -> None:  # fmt: skip
    row = tl.program_id(0)
    place = logits + row.to(tl.int64) * stride
    target = tl.load(targets + row)
    weight = tl.load(keep + row).to(tl.float32) if KEEPS else 1.0
    chosen = tl.load(place + target).to(tl.float32)
    base = chosen * LOG2E
    lost = tl.fma(chosen, LOG2E, -base)  # by rounding: each ratio is 2 ** lost too large
    ratios = tl.zeros([BLOCK], tl.float32)  # to the target's chance: one at least in sum, so no largest is looked for
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(place + columns, mask=columns < WIDTH, other=float("-inf"), eviction_policy="evict_last")
        ratios += tl.where(columns < V, tl.exp2(x.to(tl.float32) * LOG2E - base), 0.0)
    total = tl.sum(ratios, 0)
    loss = tl.log(total) - lost / LOG2E
    if total == float("inf"):  # another token is 88 nats above the target
        highest, total = float("-inf"), 0.0
        for start in range(0, V, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            x = tl.load(place + columns, mask=columns < V, other=float("-inf")).to(tl.float32)
            peak = tl.maximum(highest, tl.max(x, 0))
            total = total * tl.exp(highest - peak) + tl.sum(tl.exp(x - peak), 0)
            highest = peak
        loss = highest - chosen + tl.log(total)
    tl.store(losses + row, loss * weight)
    if WANTS:
        log_sum = chosen + loss
        base = log_sum * LOG2E
        exact = logits.dtype.element_ty == tl.float32  # else what rounding lost is far below a digit of the slopes
        factor = tl.exp2(-tl.fma(log_sum, LOG2E, -base)) if exact else 1.0
        for start in range(0, V, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            x = tl.load(place + columns, mask=columns < WIDTH, other=float("-inf"), eviction_policy="evict_first")
            slope = tl.where(columns < V, tl.exp2(x.to(tl.float32) * LOG2E - base), 0.0)
            slope = (slope * factor - tl.where(columns == target, 1.0, 0.0)) * weight
            tl.store(place + columns, slope, mask=columns < WIDTH, eviction_policy="evict_first")


def blocks(V: int) -> tuple[int, int]:
    """(columns that a program reads at a time, its warps), measured (LOG.md): of rows too long for eight programs a
    processor to keep them in the cache until the second pass, two programs read as much as they can."""
    if V <= 32_768:
        size = min(power(V), 8192)
        return size, max(4, size // 1024)
    return (65_536 if V <= 65_536 else 32_768), 32


def width(logits: Tensor) -> int:
    """Columns to read and write: V, or a few more of rows that are wider, since an odd number is read one by one."""
    V = logits.shape[1]
    return min(logits.stride(0), ceil(V, EVEN) * EVEN)


def spend(logits: Tensor, targets: Tensor, keep: Tensor | None, wants: bool) -> Tensor:
    """Losses [N], float32, of logits [N, V] and targets [N]; with `wants`, logits become the gradient of their sum.

    logits may be the first columns of wider rows; up to EVEN - 1 columns after them then become zeros.
    keep [N]: 1 for rows that count, 0 for others; None = all count.
    """
    N, V = logits.shape
    losses = torch.empty(N, dtype=torch.float32, device=logits.device)
    size, warps = blocks(V)
    if N:
        _spend[(N,)](
            *(logits, targets, targets if keep is None else keep, losses, logits.stride(0)),
            *(V, width(logits), keep is not None, wants, LOG2E, size),
            num_warps=warps,
        )
    return losses
