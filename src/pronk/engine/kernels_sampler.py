"""Triton kernels from logits to the next token: two small passes, and all that a step notes down; rules in a third.

The same rules and the same random numbers as sampler.py and philox.py: a token is the first at which the summed
probability reaches the row's number. Only its sums differ, by rounding: by blocks of the vocabulary here.
"""

from typing import Any

import torch
from torch import Tensor

from pronk.engine.forward import NOWHERE
from pronk.engine.kernels_filter import cut, tempered
from pronk.engine.rows import Rows
from pronk.models.jit import begin, ceil, constexpr, early, jit, power, tl, wait

BLOCK = 1024  # tokens of the vocabulary that one program reads


def advance(logits: Tensor, rows: Rows, live: int, filtered: bool) -> None:
    """Sample a token for each of the first `live` rows from logits [live, V or more] and note it as `step.note` does.

    filtered: some rows have a rule besides their temperature.
    """
    V, wide = rows.vocab, logits.stride(0)  # a row may be longer than the vocabulary
    floors, lasts = cut(logits, rows, live) if filtered else (rows.real, rows.whole)
    blocks = ceil(V, BLOCK)
    tops = torch.empty(live, blocks, device=logits.device)
    masses = torch.empty_like(tops)
    seen = rows.seen.view(torch.uint8) if rows.seen is not None else logits
    sizes = {"BLOCK": BLOCK, "num_warps": 4, "EARLY": early(live), "launch_pdl": early(live)}
    sizes |= {"FILTERED": filtered, "SEEN": filtered and rows.seen is not None}
    given = (logits, seen, floors, lasts, tops, masses, rows.whole, rows.real, V, wide)
    _survey[(blocks, live)](*given, **sizes)
    _choose[(live,)](
        *(*given, rows.stops, rows.done, rows.ids, rows.logps, blocks, rows.length, rows.stops.shape[1]),
        **sizes | {"BLOCKS": power(blocks), "STOPS": power(max(1, rows.stops.shape[1]), 1)},
    )


@jit
def _allowed(
    logits: "Any", seen: "Any", floors: "Any", lasts: "Any", row: "Any", v: "Any", V: "Any", real: "Any",
    FILTERED: "constexpr", SEEN: "constexpr",
) -> "Any":  # fmt: skip
    """Logits of tokens v after all rules, -inf where they may not be sampled."""
    x = tempered(logits, seen, v, V, real, SEEN)
    if FILTERED:
        floor = tl.load(floors + row)
        below = (x < floor) | ((x == floor) & (v > tl.load(lasts + row)))  # never NaN, which is to show
        x = tl.where(below, float("-inf"), x)
    return x


@jit
def _survey(
    logits: "Any", seen: "Any", floors: "Any", lasts: "Any", tops: "Any", masses: "Any", whole: "Any", real: "Any",
    V: "Any", wide: "Any",
    FILTERED: "constexpr", SEEN: "constexpr", EARLY: "constexpr", BLOCK: "constexpr",
) -> None:  # fmt: skip
    """Largest logit of each block, and the sum of exp(logit - largest)."""
    if EARLY:
        begin()
        wait()
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if tl.load(whole + row * 5 + 1) < 0:
        return
    v = block * BLOCK + tl.arange(0, BLOCK)
    x = _allowed(logits + row * wide, seen + row * V, floors, lasts, row, v, V, real + row * 4, FILTERED, SEEN)
    top = tl.max(x, 0)
    base = tl.where(top == float("-inf"), 0.0, top)  # a block of forbidden tokens
    at = row * tl.num_programs(0) + block
    tl.store(tops + at, top)
    tl.store(masses + at, tl.sum(tl.exp(x - base), 0))


@jit
def _choose(
    logits: "Any", seen: "Any", floors: "Any", lasts: "Any", tops: "Any", masses: "Any", whole: "Any", real: "Any",
    V: "Any", wide: "Any", stops: "Any", done: "Any", ids: "Any", logps: "Any", blocks: "Any", length: "Any",
    stop_count: "Any",
    FILTERED: "constexpr", SEEN: "constexpr", EARLY: "constexpr", BLOCK: "constexpr", BLOCKS: "constexpr",
    STOPS: "constexpr",
) -> None:  # fmt: skip
    """The block, then the token in it; then what `step.note` does."""
    if EARLY:
        begin()
        wait()
    row = tl.program_id(0).to(tl.int64)
    line = whole + row * 5  # token, position, last position, seed, top_k
    place = tl.load(line + 1)
    if place < 0:
        return
    place += 1
    hot = tl.load(real + row * 4) > 0
    b, n = tl.arange(0, BLOCKS), tl.arange(0, BLOCK)
    peaks = tl.load(tops + row * blocks + b, mask=b < blocks, other=float("-inf"))
    top = tl.max(peaks, 0)
    shares = tl.load(masses + row * blocks + b, mask=b < blocks, other=0.0) * tl.exp(peaks - top)
    total = tl.sum(shares, 0)
    sums = tl.cumsum(shares, 0)
    word, _, _, _ = tl.philox(tl.load(line + 3), place.to(tl.uint32), (place >> 32).to(tl.uint32), 0, 0)
    wanted = ((word >> 8) + 1).to(tl.float32) * (2.0**-24) * tl.max(sums, 0)
    block = tl.sum((sums < wanted).to(tl.int32), 0)
    block = tl.where(hot, tl.minimum(block, blocks - 1), tl.argmax(peaks, 0))
    before = tl.sum(tl.where(b == block - 1, sums, 0.0), 0)
    v = block * BLOCK + n
    x = _allowed(logits + row * wide, seen + row * V, floors, lasts, row, v, V, real + row * 4, FILTERED, SEEN)
    chances = tl.exp(x - top)
    drawn = tl.sum((before + tl.cumsum(chances, 0) < wanted).to(tl.int32), 0)
    drawn = tl.minimum(drawn, tl.max(tl.where(chances > 0, n, 0), 0))  # rounding never leads past the last chance
    index = tl.where(hot, drawn, tl.argmax(x, 0))
    token = (block * BLOCK + index).to(tl.int64)
    chosen = tl.sum(tl.where(n == index, x, 0.0), 0)
    tl.store(ids + row * (length + 1) + place, token)
    tl.store(logps + row * (length + 1) + place, chosen - top - tl.log(total))
    if SEEN:
        tl.store(seen + row * V + token, 1)
    s = tl.arange(0, STOPS)
    stop = tl.load(stops + row * stop_count + s, mask=s < stop_count, other=-1)
    ends = (tl.max((stop == token).to(tl.int32), 0) > 0) | (place >= tl.load(line + 2))
    if ends:
        tl.store(done + row, True)
    tl.store(line, token)
    tl.store(line + 1, tl.where(ends, -1, place))


assert NOWHERE == -1
