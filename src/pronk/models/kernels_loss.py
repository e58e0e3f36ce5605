"""Triton: negative log-likelihoods of rows of logits, and their gradient in the logits' own place; CUDA only.

One program a row. In plain torch the same takes seven passes over [rows, V] in float32; this takes two or three in the
logits' own type (LOG.md).
"""

from typing import Any

import torch
from torch import Tensor

from pronk.models.jit import constexpr, jit, power, tl

BLOCK = 16_384  # columns in registers at a time


@jit
def _spend(
    logits: "Any", targets: "Any", keep: "Any", losses: "Any", stride: "Any",
    V: "constexpr", KEEPS: "constexpr", WANTS: "constexpr", BLOCK: "constexpr",
) -> None:  # fmt: skip
    row = tl.program_id(0)
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
        for start in range(0, V, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            x = tl.load(place + columns, mask=columns < V, other=float("-inf")).to(tl.float32)
            slope = tl.exp(x - log_sum) - tl.where(columns == target, 1.0, 0.0)
            tl.store(place + columns, slope * weight, mask=columns < V)


def spend(logits: Tensor, targets: Tensor, keep: Tensor | None, wants: bool) -> Tensor:
    """Losses [N], float32, of logits [N, V] and targets [N]; with `wants`, logits become the gradient of their sum.

    logits may be a part of wider rows. keep [N]: 1 for rows that count, 0 for others; None = all count.
    """
    N, V = logits.shape
    losses = torch.empty(N, dtype=torch.float32, device=logits.device)
    block = min(BLOCK, power(V))
    if N:
        _spend[(N,)](
            *(logits, targets, targets if keep is None else keep, losses, logits.stride(0)),
            *(V, keep is not None, wants, block),
            num_warps=16,
        )
    return losses
