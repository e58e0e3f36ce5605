"""Triton: how far down each row's logits may be sampled under top-k, top-p and min-p, found without a sort.

Each rule keeps what is likeliest, so it is a floor under the logits. It is searched between two logits of the row: one
or more levels between them are measured at once, and each border moves on to the next logit there. The rules are
those of sampler.py in the same order. Equal logits at top-p's border: the first ones by id that are needed, as a stable
sort keeps them. The mass above a logit is a float32 sum in another order than there, so that a token whose border lies
within its rounding (a millionth) of top_p may fall on the other side.
"""

from typing import Any

import torch
from torch import Tensor

from pronk.engine.rows import Rows
from pronk.models.jit import constexpr, jit, power, tl

HELD = 32_768  # logits that a program can hold; a longer row is read again for each search step,
BLOCK = 4096  # so many at a time, and
LEVELS = 8  # measured at so many levels at once; one that is held is quicker at one (LOG.md)
LEAST = tl.constexpr(-3.4e38) if tl else None  # any finite logit is above


def cut(logits: Tensor, rows: Rows, live: int) -> tuple[Tensor, Tensor]:
    """Floors [live] and last ids [live] for logits [live, V or more]: a token stays that lies above its row's floor
    after penalty and temperature, or on it with an id up to the last."""
    V, device = rows.vocab, logits.device
    floors, lasts = torch.empty(live, device=device), torch.empty(live, dtype=torch.int32, device=device)
    seen = rows.seen.view(torch.uint8) if rows.seen is not None else logits
    held = V <= HELD
    heated = logits if held else torch.empty(live, V, device=device)
    given = (logits, heated, rows.whole, rows.real, seen, floors, lasts, V, logits.stride(0))
    sizes = {"HELD": held, "BLOCK": power(V) if held else BLOCK, "LEVELS": 1 if held else LEVELS}
    sizes |= {"num_warps": 32 if V > 4096 else 4}
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
def _piece(held: "Any", heated: "Any", v: "Any", V: "Any", HELD: "constexpr") -> "Any":
    """Logits of tokens v, which are at hand where the whole row is."""
    if HELD:
        x = held
    else:
        x = tl.load(heated + v, mask=v < V, other=float("-inf"))
    return x


@jit
def _level(low: "Any", high: "Any", number: "constexpr", LEVELS: "constexpr") -> "Any":
    """One of the levels that cut what lies between low and high into equal parts; above low in any case."""
    middle = low * (1 - (number + 1) / (LEVELS + 1)) + high * ((number + 1) / (LEVELS + 1))
    return tl.where((middle > low) & (middle <= high), middle, high)


@jit
def _weigh(
    x: "Any", low: "Any", high: "Any", top: "Any", sums: "Any", COUNT: "constexpr", LEVELS: "constexpr"
) -> "Any":
    """Add to each lane's sums, one a level, the mass of a piece from that level up."""
    weight = 1.0 if COUNT else tl.exp(x - top)
    more = ()
    for level in tl.static_range(LEVELS):
        above = x >= _level(low, high, level, LEVELS)
        more = more + (sums[level] + tl.where(above, weight, 0.0),)  # type: ignore[assignment]
    return more


@jit
def _masses(
    held: "Any", heated: "Any", V: "Any", low: "Any", high: "Any", top: "Any",
    COUNT: "constexpr", HELD: "constexpr", BLOCK: "constexpr", LEVELS: "constexpr",
) -> "Any":  # fmt: skip
    """Count or mass (relative to the top's) of the whole row, in lanes, from each level between low and high up."""
    v, sums = tl.arange(0, BLOCK), ()
    for _ in tl.static_range(LEVELS):
        sums = sums + (tl.zeros([BLOCK], tl.float32),)  # type: ignore[assignment]
    sums = _weigh(_piece(held, heated, v, V, HELD), low, high, top, sums, COUNT, LEVELS)
    if not HELD:
        for start in range(BLOCK, V, BLOCK):
            sums = _weigh(_piece(held, heated, start + v, V, HELD), low, high, top, sums, COUNT, LEVELS)
    return sums


@jit
def _borders(
    held: "Any", heated: "Any", V: "Any", low: "Any", high: "Any", HELD: "constexpr", BLOCK: "constexpr"
) -> "Any":  # fmt: skip
    """The lowest logit from low up and the highest below high."""
    v = tl.arange(0, BLOCK)
    x = _piece(held, heated, v, V, HELD)
    up, down = tl.where(x >= low, x, float("inf")), tl.where(x < high, x, float("-inf"))
    if not HELD:
        for start in range(BLOCK, V, BLOCK):
            x = _piece(held, heated, start + v, V, HELD)
            up = tl.minimum(up, tl.where(x >= low, x, float("inf")))
            down = tl.maximum(down, tl.where(x < high, x, float("-inf")))
    return tl.min(up, 0), tl.max(down, 0)


@jit
def _total(
    held: "Any", heated: "Any", V: "Any", low: "Any", top: "Any", HELD: "constexpr", BLOCK: "constexpr"
) -> "Any":  # fmt: skip
    """The mass from low up."""
    v = tl.arange(0, BLOCK)
    x = _piece(held, heated, v, V, HELD)
    mass = tl.where(x >= low, tl.exp(x - top), 0.0)
    if not HELD:
        for start in range(BLOCK, V, BLOCK):
            x = _piece(held, heated, start + v, V, HELD)
            mass += tl.where(x >= low, tl.exp(x - top), 0.0)
    return tl.sum(mass, 0)


@jit
def _floor(
    held: "Any", heated: "Any", V: "Any", low: "Any", high: "Any", want: "Any",
    COUNT: "constexpr", HELD: "constexpr", BLOCK: "constexpr", LEVELS: "constexpr",
) -> "Any":  # fmt: skip
    """The highest logit from low to high, which is the top, that has the wanted count or mass with all above it; and
    what all above it have."""
    top, over = high, 0.0
    while low < high:
        sums = _masses(held, heated, V, low, high, top, COUNT, HELD, BLOCK, LEVELS)
        least, most = low, float("inf")
        for level in tl.static_range(LEVELS):
            middle, mass = _level(low, high, level, LEVELS), tl.sum(sums[level], 0)
            least = tl.where(mass >= want, tl.maximum(least, middle), least)
            over = tl.where(mass >= want, over, tl.where(middle < most, mass, over))
            most = tl.where(mass >= want, most, tl.minimum(most, middle))
        low, down = _borders(held, heated, V, least, most, HELD, BLOCK)
        high = tl.minimum(high, down)
    return low, over


@jit
def _last(
    held: "Any", heated: "Any", V: "Any", floor: "Any", over: "Any", share: "Any", want: "Any",
    HELD: "constexpr", BLOCK: "constexpr",
) -> "Any":  # fmt: skip
    """The last id of those on the floor that are needed to reach the mass."""
    v = tl.arange(0, BLOCK)
    before, last = 0, 0
    for start in range(0, V, BLOCK):
        tied = (_piece(held, heated, start + v, V, HELD) == floor).to(tl.int32)
        rank = before + tl.cumsum(tied, 0) - tied
        needed = (tied > 0) & ((rank == 0) | (over + rank.to(tl.float32) * share < want))
        last = tl.maximum(last, tl.max(tl.where(needed, start + v, 0), 0))
        before += tl.sum(tied, 0)
    return last


@jit
def _cut(
    logits: "Any", heated: "Any", whole: "Any", real: "Any", seen: "Any", floors: "Any", lasts: "Any",
    V: "Any", wide: "Any",
    SEEN: "constexpr", HELD: "constexpr", BLOCK: "constexpr", LEVELS: "constexpr",
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits, seen, real, line = logits + row * wide, seen + row * V, real + row * 4, whole + row * 5
    if tl.load(line + 1) < 0:
        return
    top_k, top_p, min_p = tl.load(line + 4), tl.load(real + 1), tl.load(real + 2)
    floor, last = float("-inf"), V
    if (top_k < V) | (top_p < 1.0) | (min_p > 0.0):
        v, heated = tl.arange(0, BLOCK), heated + row * V
        if HELD:
            held = tempered(logits, seen, v, V, real, SEEN)
        else:
            held = tl.full([BLOCK], float("-inf"), tl.float32)  # of each lane the highest
            for start in range(0, V, BLOCK):
                x = tempered(logits, seen, start + v, V, real, SEEN)
                tl.store(heated + start + v, x, mask=start + v < V)
                held = tl.maximum(held, x)
            tl.debug_barrier()  # a thread may read what another one wrote
        top = tl.max(held, 0)
        low, _ = _borders(held, heated, V, LEAST, top, HELD, BLOCK)
        if top_k < V:
            low, _ = _floor(held, heated, V, low, top, top_k.to(tl.float32), True, HELD, BLOCK, LEVELS)
            floor = low
        if top_p < 1.0:
            want = top_p * _total(held, heated, V, low, top, HELD, BLOCK)
            floor, over = _floor(held, heated, V, low, top, want, False, HELD, BLOCK, LEVELS)
            last = _last(held, heated, V, floor, over, tl.exp(floor - top), want, HELD, BLOCK)
        if min_p > 0.0:
            lowest = top + tl.log(min_p)
            if lowest > floor:
                floor, last = lowest, V
    tl.store(floors + row, floor)
    tl.store(lasts + row, last)
