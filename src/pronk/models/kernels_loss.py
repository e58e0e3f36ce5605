"""Triton: negative log-likelihoods of rows of logits, and their gradient in the logits' own place; CUDA only.

One program a row. In plain torch the same takes seven passes over [rows, V] in float32; this takes two in the logits'
own type, a row in registers (LOG.md).
"""

from typing import Any

import torch
from torch import Tensor

from pronk.models.jit import ceil, constexpr, jit, power, tl

ROW = 65_536  # columns that are read at once: whole rows of most vocabularies
PART = 32_768  # and where they are more
LEFT = 4096  # and of the few rows that are read again
EVEN = 16  # columns that are read and written together


@jit
def _slopes(
    place: "Any", target: "Any", log_sum: "Any", weight: "Any", V: "constexpr", WIDTH: "Any", BLOCK: "constexpr"
) -> None:
    """Write the gradient of a row's loss in the place of its logits; columns from V to WIDTH become zeros."""
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(place + columns, mask=columns < WIDTH, other=float("-inf")).to(tl.float32)
        slope = tl.where(columns < V, tl.exp(x - log_sum), 0.0) - tl.where(columns == target, 1.0, 0.0)
        tl.store(place + columns, slope * weight, mask=columns < WIDTH)


@jit
def _spend(
    logits: "Any", targets: "Any", keep: "Any", losses: "Any", stride: "Any",
    V: "constexpr", WIDTH: "constexpr", KEEPS: "constexpr", WANTS: "constexpr", BLOCK: "constexpr",
) -> None:  # fmt: skip
    """The loss is the log of the sum of all tokens' chances as multiples of the target's: at least 1, so no largest
    logit has to be found first. Where that leaves float32, the loss becomes infinite and the logits stay."""
    row = tl.program_id(0)
    place = logits + row.to(tl.int64) * stride
    target = tl.load(targets + row)
    weight = tl.load(keep + row).to(tl.float32) if KEEPS else 1.0
    chosen = tl.load(place + target).to(tl.float32)
    ratios = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(place + columns, mask=columns < WIDTH, other=float("-inf")).to(tl.float32)
        ratios += tl.where(columns < V, tl.exp(x - chosen), 0.0)
    loss = tl.log(tl.sum(ratios, 0))
    left = loss == float("inf")
    tl.store(losses + row, tl.where(left, loss, loss * weight))
    if WANTS:
        _slopes(place, target, chosen + loss, weight, V, tl.where(left, 0, WIDTH), BLOCK)


@jit
def _spend_left(
    logits: "Any", targets: "Any", keep: "Any", losses: "Any", stride: "Any",
    V: "constexpr", WIDTH: "constexpr", KEEPS: "constexpr", WANTS: "constexpr", BLOCK: "constexpr",
) -> None:  # fmt: skip
    """The same for the rows that `_spend` left, whose targets lie 88 nats below another token, by the largest logit."""
    row = tl.program_id(0)
    if tl.load(losses + row) == float("inf"):
        place = logits + row.to(tl.int64) * stride
        target = tl.load(targets + row)
        weight = tl.load(keep + row).to(tl.float32) if KEEPS else 1.0
        chosen = tl.load(place + target).to(tl.float32)
        highest, total = float("-inf"), 0.0
        for start in range(0, V, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            x = tl.load(place + columns, mask=columns < V, other=float("-inf")).to(tl.float32)
            peak = tl.maximum(highest, tl.max(x, 0))
            total = total * tl.exp(highest - peak) + tl.sum(tl.exp(x - peak), 0)
            highest = peak
        log_sum = highest + tl.log(total)
        tl.store(losses + row, (log_sum - chosen) * weight)
        if WANTS:
            _slopes(place, target, log_sum, weight, V, WIDTH, BLOCK)


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
    given = logits, targets, targets if keep is None else keep, losses, logits.stride(0)
    flags = V, width(logits), keep is not None, wants
    size = power(V) if V <= ROW else PART
    if N:
        _spend[(N,)](*given, *flags, size, num_warps=min(32, max(4, size // 1024)))
        _spend_left[(N,)](*given, *flags, min(size, LEFT), num_warps=4)
    return losses
