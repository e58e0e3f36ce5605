"""Triton: how far down each row's logits may be sampled under top-k, top-p and min-p, found without a sort.

Each rule keeps what is likeliest, so it is a floor under the logits. Bisection finds it: the middle between two logits
of the row halves what lies between, and each border moves on to the next logit that is there. The rules are those of
sampler.py in the same order. Equal logits at top-p's border: the first ones by id that are needed, as a stable sort
keeps them. The mass above a logit is a float32 sum in another order than there, so that a token whose border lies
within its rounding (a millionth) of top_p may fall on the other side.
"""

from typing import Any

import torch
from torch import Tensor

from pronk.engine.rows import Rows
from pronk.models.jit import constexpr, jit, power, tl

BLOCK = 32_768  # logits held at a time: up to here a row is read once, beyond it once for each halving
WARPS = 32


def cut(logits: Tensor, rows: Rows, live: int) -> tuple[Tensor, Tensor]:
    """Floors [live] and last ids [live] for logits [live, V or more]: a token stays that lies above its row's floor
    after penalty and temperature, or on it with an id up to the last."""
    floors = torch.empty(live, device=logits.device)
    lasts = torch.empty(live, dtype=torch.int32, device=logits.device)
    V, block = rows.vocab, min(BLOCK, power(rows.vocab))
    seen = rows.seen.view(torch.uint8) if rows.seen is not None else logits
    sizes = {"HELD": block >= V, "BLOCK": block, "num_warps": WARPS if block >= 4096 else 4}
    given = (logits, rows.whole, rows.real, seen, floors, lasts, V, logits.stride(0))
    _cut[(live,)](*given, SEEN=rows.seen is not None, **sizes)
    return floors, lasts


@jit
def tempered(logits: "Any", seen: "Any", v: "Any", V: "Any", real: "Any", SEEN: "constexpr") -> "Any":
    """Logits of tokens v of a row after its repetition penalty and its temperature; -inf beyond the vocabulary."""
    x = tl.load(logits + v, mask=v < V, other=float("-inf")).to(tl.float32)
    heat, penalty = tl.load(real), tl.load(real + 3)
    if SEEN:  # noqa: SIM102 (decided when this is compiled)
        if penalty != 1.0:
            known = tl.load(seen + v, mask=v < V, other=0) != 0
            x = tl.where(known, tl.where(x > 0, tl.div_rn(x, penalty), x * penalty), x)
    if (heat > 0) & (heat != 1.0):  # greedy rows as they are
        x = tl.div_rn(x, heat)
    return x


@jit
def _piece(
    held: "Any", logits: "Any", seen: "Any", v: "Any", V: "Any", real: "Any", SEEN: "constexpr", HELD: "constexpr"
) -> "Any":
    """Tokens v, which are at hand where the whole row is."""
    if HELD:
        x = held
    else:
        x = tempered(logits, seen, v, V, real, SEEN)
    return x


@jit
def _floor(
    held: "Any", logits: "Any", seen: "Any", V: "Any", real: "Any", low: "Any", high: "Any", top: "Any", want: "Any",
    COUNT: "constexpr", SEEN: "constexpr", HELD: "constexpr", BLOCK: "constexpr",
) -> "Any":  # fmt: skip
    """The highest logit from low to high that has, with all above it, this count or mass (relative to the top's)."""
    v = tl.arange(0, BLOCK)
    while low < high:
        middle = low * 0.5 + high * 0.5
        middle = tl.where((middle > low) & (middle <= high), middle, high)
        mass, up, down = 0.0, float("inf"), float("-inf")
        for start in range(0, V, BLOCK):
            x = _piece(held, logits, seen, start + v, V, real, SEEN, HELD)
            above = x >= middle
            weight = 1.0 if COUNT else tl.exp(x - top)
            mass += tl.sum(tl.where(above, weight, 0.0), 0)
            up = tl.minimum(up, tl.min(tl.where(above, x, float("inf")), 0))
            down = tl.maximum(down, tl.max(tl.where(above, float("-inf"), x), 0))
        if mass >= want:
            low = up
        else:
            high = down
    return low


@jit
def _cut(
    logits: "Any", whole: "Any", real: "Any", seen: "Any", floors: "Any", lasts: "Any", V: "Any", wide: "Any",
    SEEN: "constexpr", HELD: "constexpr", BLOCK: "constexpr",
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits, seen, real, line = logits + row * wide, seen + row * V, real + row * 4, whole + row * 5
    if tl.load(line + 1) < 0:
        return
    top_k, top_p, min_p = tl.load(line + 4), tl.load(real + 1), tl.load(real + 2)
    floor, last = float("-inf"), V
    if (top_k < V) | (top_p < 1.0) | (min_p > 0.0):
        v = tl.arange(0, BLOCK)
        held = tempered(logits, seen, v, V, real, SEEN)
        low, top = float("inf"), float("-inf")
        for start in range(0, V, BLOCK):
            x = _piece(held, logits, seen, start + v, V, real, SEEN, HELD)
            low = tl.minimum(low, tl.min(tl.where(x > float("-inf"), x, float("inf")), 0))
            top = tl.maximum(top, tl.max(x, 0))
        if top_k < V:
            want = top_k.to(tl.float32)
            low = _floor(held, logits, seen, V, real, low, top, top, want, True, SEEN, HELD, BLOCK)
            floor = low
        if top_p < 1.0:
            total = 0.0
            for start in range(0, V, BLOCK):
                x = _piece(held, logits, seen, start + v, V, real, SEEN, HELD)
                total += tl.sum(tl.where(x >= low, tl.exp(x - top), 0.0), 0)
            want = top_p * total
            floor = _floor(held, logits, seen, V, real, low, top, top, want, False, SEEN, HELD, BLOCK)
            last = _last(held, logits, seen, V, real, floor, top, want, SEEN, HELD, BLOCK)
        if min_p > 0.0:
            lowest = top + tl.log(min_p)
            if lowest > floor:
                floor, last = lowest, V
    tl.store(floors + row, floor)
    tl.store(lasts + row, last)


@jit
def _last(
    held: "Any", logits: "Any", seen: "Any", V: "Any", real: "Any", floor: "Any", top: "Any", want: "Any",
    SEEN: "constexpr", HELD: "constexpr", BLOCK: "constexpr",
) -> "Any":  # fmt: skip
    """The last id of those on the floor that are needed to reach the mass."""
    v = tl.arange(0, BLOCK)
    mass, share, last, before = 0.0, tl.exp(floor - top), 0, 0
    for start in range(0, V, BLOCK):
        x = _piece(held, logits, seen, start + v, V, real, SEEN, HELD)
        mass += tl.sum(tl.where(x > floor, tl.exp(x - top), 0.0), 0)
    for start in range(0, V, BLOCK):
        x = _piece(held, logits, seen, start + v, V, real, SEEN, HELD)
        tied = (x == floor).to(tl.int32)
        rank = before + tl.cumsum(tied, 0) - tied
        needed = (tied > 0) & ((rank == 0) | (mass + rank.to(tl.float32) * share < want))
        last = tl.maximum(last, tl.max(tl.where(needed, start + v, 0), 0))
        before += tl.sum(tied, 0)
    return last
