"""Triton kernels from logits to the next token: two small passes, and all that a step notes down, in three launches.

The same rules and the same random numbers as sampler.py and philox.py: a token is the first at which the summed
probability reaches the row's number. Only its sums differ, by rounding: by blocks of the vocabulary here.
"""

from typing import Any

import torch
from torch import Tensor

from pronk.engine.forward import NOWHERE
from pronk.engine.rows import Rows
from pronk.models.jit import begin, ceil, constexpr, early, jit, power, tl, wait

BLOCK = 1024  # tokens of the vocabulary that one program reads


def advance(logits: Tensor, rows: Rows, live: int, tempered: bool) -> None:
    """Sample a token for each of the first `live` rows from logits [live, V or more] and note it as `step.note` does.

    tempered: the logits are divided by the temperature already, and forbidden tokens are -inf.
    """
    V, wide = rows.vocab, logits.stride(0)  # a row may be longer than the vocabulary
    blocks = ceil(V, BLOCK)
    tops = torch.empty(live, blocks, device=logits.device)
    masses = torch.empty_like(tops)
    sizes = {"TEMPERED": tempered, "EARLY": early(live), "BLOCK": BLOCK, "num_warps": 4, "launch_pdl": early(live)}
    _survey[(blocks, live)](logits, rows.real, rows.positions, tops, masses, V, wide, rows.real.stride(0), 5, **sizes)
    seen = rows.seen if rows.seen is not None else logits
    _choose[(live,)](
        *(logits, tops, masses, rows.whole, rows.real, rows.stops, rows.done, rows.ids, rows.logps, seen),
        *(V, wide, blocks, rows.length, rows.stops.shape[1]),
        **sizes | {"BLOCKS": power(blocks), "STOPS": power(max(1, rows.stops.shape[1]), 1)},
        SEEN=rows.seen is not None and tempered,
    )


@jit
def _heat(real: "Any", TEMPERED: "constexpr") -> "Any":
    """What logits are divided by: greedy rows as they are."""
    temperature = tl.load(real)
    hot = temperature > 0
    by = tl.where(hot & (not TEMPERED), temperature, 1.0)
    return hot, by


@jit
def _survey(
    logits: "Any", real: "Any", positions: "Any", tops: "Any", masses: "Any", V: "Any", wide: "Any", real_row: "Any",
    position_row: "Any",
    TEMPERED: "constexpr", EARLY: "constexpr", BLOCK: "constexpr",
) -> None:  # fmt: skip
    """Largest logit of each block, and the sum of exp(logit - largest)."""
    if EARLY:
        begin()
        wait()
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if tl.load(positions + row * position_row) < 0:
        return
    v = block * BLOCK + tl.arange(0, BLOCK)
    _, by = _heat(real + row * real_row, TEMPERED)
    x = tl.load(logits + row * wide + v, mask=v < V, other=float("-inf")).to(tl.float32) / by
    top = tl.max(x, 0)
    base = tl.where(top == float("-inf"), 0.0, top)  # a block of forbidden tokens
    at = row * tl.num_programs(0) + block
    tl.store(tops + at, top)
    tl.store(masses + at, tl.sum(tl.exp(x - base), 0))


@jit
def _choose(
    logits: "Any", tops: "Any", masses: "Any", whole: "Any", real: "Any", stops: "Any", done: "Any", ids: "Any",
    logps: "Any", seen: "Any",
    V: "Any", wide: "Any", blocks: "Any", length: "Any", stop_count: "Any",
    TEMPERED: "constexpr", EARLY: "constexpr", BLOCK: "constexpr", BLOCKS: "constexpr", STOPS: "constexpr",
    SEEN: "constexpr",
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
    hot, by = _heat(real + row * 4, TEMPERED)
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
    x = tl.load(logits + row * wide + v, mask=v < V, other=float("-inf")).to(tl.float32) / by
    chances = tl.exp(x - top)
    drawn = tl.sum((before + tl.cumsum(chances, 0) < wanted).to(tl.int32), 0)
    drawn = tl.minimum(drawn, tl.max(tl.where(chances > 0, n, 0), 0))  # rounding never leads past the last chance
    index = tl.where(hot, drawn, tl.argmax(x, 0))
    token = (block * BLOCK + index).to(tl.int64)
    chosen = tl.sum(tl.where(n == index, x, 0.0), 0)
    tl.store(ids + row * (length + 1) + place, token)
    tl.store(logps + row * (length + 1) + place, chosen - top - tl.log(total))
    if SEEN:
        tl.store(seen + row * V + token, True)
    s = tl.arange(0, STOPS)
    stop = tl.load(stops + row * stop_count + s, mask=s < stop_count, other=-1)
    ends = (tl.max((stop == token).to(tl.int32), 0) > 0) | (place >= tl.load(line + 2))
    if ends:
        tl.store(done + row, True)
    tl.store(line, token)
    tl.store(line + 1, tl.where(ends, -1, place))


assert NOWHERE == -1
