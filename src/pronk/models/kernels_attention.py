"""Triton kernels for attention over a cache of keys and values: rotary positions, writing, and reading what is live.

Queries, keys and values come as one product, qkv [M, (heads + 2 kv_heads) * head_dim], a row a token. A head is handled
as two halves, which is how rotary pairs lie and keeps a head of 48 from being padded to 64.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pronk.models.jit import begin, constexpr, early, jit, power, tl, wait
from pronk.models.kernels import precision

LOG2E = 1.4426950408889634
SPLIT = 512  # columns that one program reads where there are too few rows to fill the GPU
PROGRAMS = 2112  # 16 for each multiprocessor of an H100


class Heads(NamedTuple):
    """Shape of an attention layer."""

    heads: int
    kv_heads: int
    size: int
    scale: float  # of the scores
    eps: float = 0.0  # of norms of queries and keys


def splits(rows: int, kv_heads: int, span: int) -> int:
    """Into how many parts each row's cache is cut, so that few rows of long texts fill the GPU too: a power of two."""
    wanted = min(span // SPLIT, PROGRAMS // (rows * kv_heads))
    return 1 << max(0, wanted.bit_length() - 1) if wanted > 1 else 1


def decode(
    qkv: Tensor,
    shape: Heads,
    rotary: tuple[Tensor, Tensor] | None,
    positions: Tensor,
    keys: Tensor,
    values: Tensor,
    parts: int = 1,
    gains: tuple[Tensor, Tensor] | None = None,
    blocks: tuple[bool, int, int, int] | None = None,
    chained: bool = False,
) -> Tensor:
    """One token a row: turn its query and key, store its key and value, attend to all of the row up to it.

    positions [M, 1], -1 = nobody. keys, values [rows, kv_heads, columns, head_dim] of this layer; token m belongs to
    row m. A ring, shorter than a text, holds position p in column p modulo its size; the last column is nobody's.
    parts: from `splits`. gains: of norms of queries and keys, [head_dim] each, where there are such. blocks: as from
    `_decode_blocks`, which holds what was measured best. chained: as in jit.early. Returns [M, heads * head_dim]; what
    stands in nobody's row is undefined.
    """
    H, G, D, scale, eps = shape
    M = len(qkv)
    out = torch.empty(M, H * D, dtype=qkv.dtype, device=qkv.device)
    partial = torch.empty(M, parts, H, D + 2, device=qkv.device) if parts > 1 else out
    cosine, sine = rotary or (qkv, qkv)
    gain_q, gain_k = gains or (qkv, qkv)
    lanes, block, warps, stages = blocks or _decode_blocks(M, H // G, D, parts)
    soon = early(M, chained)
    _decode[(G, M, parts)](
        *(qkv, cosine, sine, gain_q, gain_k, positions, keys, values, partial, scale * LOG2E, eps),
        *(qkv.stride(0), positions.stride(0), keys.stride(0), keys.stride(1), keys.shape[2] - 1, H, G, D),
        **{"HALF": power(D // 2), "BH": 1 if lanes else power(H // G), "BN": block, "PARTS": parts},
        **{"ROTARY": rotary is not None, "NORM": gains is not None, "PRECISION": precision(), "EARLY": soon},
        **{"STAGES": stages, "LATE": M > 1},
        **{"num_warps": warps, "num_stages": stages, "launch_pdl": soon},
    )
    if parts > 1:
        last = {"num_warps": 1, "launch_pdl": early(M)}
        _merge[(M, H)](
            partial, out, positions, positions.stride(0), H, D, PARTS=parts, BD=power(D), EARLY=early(M), **last
        )
    return out


def _decode_blocks(M: int, group: int, D: int, parts: int) -> tuple[bool, int, int, int]:
    """For M rows with so many queries a key: whether each column has a lane of its own; columns, warps and stages of a
    block."""
    if group > 1 or D > 64:
        return (False, 64, 4, 3) if parts > 1 or D > 64 else (False, 32, 2, 3)
    if parts > 1:
        return True, 64, 2, 1
    return (True, 32, 2, 3) if M <= 32 else (True, 32 if M <= 256 else 16, 1, 1)


@jit
def _turned(first: "Any", second: "Any", cosine: "Any", sine: "Any") -> "Any":
    """A pair of halves after its rotation, rounded as the plain code rounds."""
    a, b = first.to(tl.float32), second.to(tl.float32)
    return (a * cosine - b * sine).to(first.dtype), (b * cosine + a * sine).to(first.dtype)


@jit
def _normed(first: "Any", second: "Any", gain: "Any", eps: "Any", D: "constexpr", HALF: "constexpr") -> "Any":
    """RMSNorm of heads [.., HALF] each half, rounded as the plain code rounds."""
    d = tl.arange(0, HALF)
    a, b = first.to(tl.float32), second.to(tl.float32)
    by = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / D + eps)[:, None]
    left, right = _half_pair(gain, d, d < D // 2, D)
    a, b = a * by * left.to(tl.float32)[None, :], b * by * right.to(tl.float32)[None, :]
    return a.to(first.dtype), b.to(first.dtype)


@jit
def _half_pair(cache: "Any", at: "Any", mask: "Any", D: "constexpr") -> "Any":
    """Both halves of what is stored at these places."""
    return tl.load(cache + at, mask=mask, other=0.0), tl.load(cache + at + D // 2, mask=mask, other=0.0)


@jit
def _put(to: "Any", at: "Any", first: "Any", second: "Any", mask: "Any", D: "constexpr") -> None:
    tl.store(to + at, first, mask=mask)
    tl.store(to + at + D // 2, second, mask=mask)


@jit
def _fold(
    q1: "Any", q2: "Any", keys: "Any", values: "Any", base: "Any", cols: "Any", live: "Any", sight: "Any", scale: "Any",
    top: "Any", mass: "Any", sum1: "Any", sum2: "Any", D: "constexpr", HALF: "constexpr", PRECISION: "constexpr",
) -> "Any":  # fmt: skip
    """Attend to some columns more: running maximum, mass and weighted sums (online softmax, arXiv 1805.02867)."""
    d = tl.arange(0, HALF)
    k1, k2 = _half_pair(keys, base + cols[None, :] * D + d[:, None], live[None, :] & (d < D // 2)[:, None], D)
    v1, v2 = _half_pair(values, base + cols[:, None] * D + d[None, :], live[:, None] & (d < D // 2)[None, :], D)
    scores = tl.dot(q1, k1, input_precision=PRECISION)
    scores = tl.dot(q2, k2, scores, input_precision=PRECISION) * scale
    scores = tl.where(sight, scores, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, 1))
    level = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen yet
    shares, fade = tl.exp2(scores - level[:, None]), tl.exp2(top - level)
    sum1 = tl.dot(shares.to(v1.dtype), v1, sum1 * fade[:, None], input_precision=PRECISION)
    sum2 = tl.dot(shares.to(v2.dtype), v2, sum2 * fade[:, None], input_precision=PRECISION)
    return higher, mass * fade + tl.sum(shares, 1), sum1, sum2


@jit
def _fold_lanes(
    q1: "Any", q2: "Any", keys: "Any", values: "Any", base: "Any", cols: "Any", live: "Any", scale: "Any",
    top: "Any", mass: "Any", sum1: "Any", sum2: "Any", D: "constexpr", HALF: "constexpr",
) -> "Any":  # fmt: skip
    """The same for a single query [1, HALF] each half, each column in a lane [BN] of its own: nothing is summed over
    columns until the end, and tensor cores would multiply fifteen parts padding."""
    d = tl.arange(0, HALF)
    mask = live[:, None] & (d < D // 2)[None, :]
    k1, k2 = _half_pair(keys, base + cols[:, None] * D + d[None, :], mask, D)
    v1, v2 = _half_pair(values, base + cols[:, None] * D + d[None, :], mask, D)
    scores = tl.sum(k1.to(tl.float32) * q1.to(tl.float32) + k2.to(tl.float32) * q2.to(tl.float32), 1) * scale
    scores = tl.where(live, scores, float("-inf"))
    higher = tl.maximum(top, scores)
    level = tl.where(higher == float("-inf"), 0.0, higher)
    share, fade = tl.exp2(scores - level), tl.exp2(top - level)
    sum1 = sum1 * fade[:, None] + share[:, None] * v1.to(tl.float32)
    sum2 = sum2 * fade[:, None] + share[:, None] * v2.to(tl.float32)
    return higher, mass * fade + share, sum1, sum2


@jit
def _gather_lanes(top: "Any", mass: "Any", sum1: "Any", sum2: "Any") -> "Any":
    """All lanes together: maximum and mass [1], weighted sums [1, HALF]."""
    highest = tl.max(top, 0)
    weights = tl.exp2(top - tl.where(highest == float("-inf"), 0.0, highest))
    sum1, sum2 = tl.sum(sum1 * weights[:, None], 0)[None, :], tl.sum(sum2 * weights[:, None], 0)[None, :]
    one = tl.zeros([1], tl.float32)
    return one + highest, one + tl.sum(mass * weights, 0), sum1, sum2


@jit
def _fold_own(
    q1: "Any", q2: "Any", k1: "Any", k2: "Any", v1: "Any", v2: "Any", scale: "Any",
    top: "Any", mass: "Any", sum1: "Any", sum2: "Any",
) -> "Any":  # fmt: skip
    """Attend to one token more, whose key and value are at hand."""
    score = tl.sum(q1.to(tl.float32) * k1.to(tl.float32)[None, :], 1)
    score = (score + tl.sum(q2.to(tl.float32) * k2.to(tl.float32)[None, :], 1)) * scale
    higher = tl.maximum(top, score)
    share, fade = tl.exp2(score - higher), tl.exp2(top - higher)
    sum1 = sum1 * fade[:, None] + share[:, None] * v1.to(tl.float32)[None, :]
    sum2 = sum2 * fade[:, None] + share[:, None] * v2.to(tl.float32)[None, :]
    return higher, mass * fade + share, sum1, sum2


@jit
def _past(
    q1: "Any", q2: "Any", keys: "Any", values: "Any", base: "Any", first: "Any", stop: "Any", slot: "Any", scale: "Any",
    D: "constexpr", HALF: "constexpr", BH: "constexpr", BN: "constexpr", PRECISION: "constexpr", STAGES: "constexpr",
) -> "Any":  # fmt: skip
    """Attend to the columns from first to stop, but for the token's own."""
    n = tl.arange(0, BN)
    lanes: tl.constexpr = BN if BH == 1 else BH
    top, mass = tl.full([lanes], float("-inf"), tl.float32), tl.zeros([lanes], tl.float32)
    sum1, sum2 = tl.zeros([lanes, HALF], tl.float32), tl.zeros([lanes, HALF], tl.float32)
    if BH == 1:
        for start in tl.range(first, stop, BN, num_stages=STAGES):
            live = (start + n < stop) & (start + n != slot)
            top, mass, sum1, sum2 = _fold_lanes(
                q1, q2, keys, values, base, start + n, live, scale, top, mass, sum1, sum2, D, HALF
            )
        top, mass, sum1, sum2 = _gather_lanes(top, mass, sum1, sum2)
    else:
        for start in range(first, stop, BN):
            live = (start + n < stop) & (start + n != slot)
            top, mass, sum1, sum2 = _fold(
                q1, q2, keys, values, base, start + n, live, live[None, :], scale,
                top, mass, sum1, sum2, D, HALF, PRECISION,
            )  # fmt: skip
    return top, mass, sum1, sum2


@jit
def _decode(
    qkv: "Any", cosine: "Any", sine: "Any", gain_q: "Any", gain_k: "Any", positions: "Any", keys: "Any", values: "Any",
    out: "Any", scale: "Any", eps: "Any",
    qkv_row: "Any", position_row: "Any", row_stride: "Any", head_stride: "Any", columns: "Any",
    H: "constexpr", G: "constexpr", D: "constexpr", HALF: "constexpr", BH: "constexpr", BN: "constexpr",
    PARTS: "constexpr",
    ROTARY: "constexpr", NORM: "constexpr", PRECISION: "constexpr", EARLY: "constexpr", LATE: "constexpr",
    STAGES: "constexpr",
) -> None:  # fmt: skip
    group, row, part = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    base = row * row_stride + group * head_stride
    if EARLY:
        if not LATE:
            begin()
        wait()
    place = tl.load(positions + row * position_row)
    if place < 0:
        return
    slot, full = place % columns, tl.minimum(place, columns)  # a ring's own column holds what fell out of the window
    size = tl.cdiv(tl.cdiv(full, PARTS), BN) * BN
    stop = tl.minimum(part * size + size, full)
    R = H // G
    h, d = tl.arange(0, BH), tl.arange(0, HALF)
    real = d < D // 2
    own = (h[:, None] < R) & real[None, :]
    q1, q2 = _half_pair(qkv, row * qkv_row + (group * R + h[:, None]) * D + d[None, :], own, D)
    new1, new2 = _half_pair(qkv, row * qkv_row + (H + group) * D + d, real, D)
    fresh1, fresh2 = _half_pair(qkv, row * qkv_row + (H + G + group) * D + d, real, D)
    if NORM:
        q1, q2 = _normed(q1, q2, gain_q, eps, D, HALF)
        new1, new2 = _normed(new1[None, :], new2[None, :], gain_k, eps, D, HALF)
        new1, new2 = tl.reshape(new1, [HALF]), tl.reshape(new2, [HALF])
    if ROTARY:
        cos = tl.load(cosine + place * (D // 2) + d, mask=real, other=0.0).to(tl.float32)
        sin = tl.load(sine + place * (D // 2) + d, mask=real, other=0.0).to(tl.float32)
        q1, q2 = _turned(q1, q2, cos[None, :], sin[None, :])
        new1, new2 = _turned(new1, new2, cos, sin)
    top, mass, sum1, sum2 = _past(
        q1, q2, keys, values, base, part * size, stop, slot, scale, D, HALF, BH, BN, PRECISION, STAGES
    )
    if EARLY and LATE:
        begin()
    if part == 0:  # the token itself, from registers; and into the cache
        _put(keys, base + slot * D + d, new1, new2, real, D)
        _put(values, base + slot * D + d, fresh1, fresh2, real, D)
        top, mass, sum1, sum2 = _fold_own(q1, q2, new1, new2, fresh1, fresh2, scale, top, mass, sum1, sum2)
    head = group * R + h
    if PARTS == 1:
        to = (row * H + head[:, None]) * D + d[None, :]
        _put(out, to, sum1 / mass[:, None], sum2 / mass[:, None], own, D)
    else:
        line = ((row * PARTS + part) * H + head) * (D + 2)
        _put(out, line[:, None] + d[None, :], sum1, sum2, own, D)
        tl.store(out + line + D, top, mask=h < R)
        tl.store(out + line + D + 1, mass, mask=h < R)


@jit
def _merge(
    partial: "Any", out: "Any", positions: "Any", position_row: "Any", H: "Any", D: "Any",
    PARTS: "constexpr", EARLY: "constexpr", BD: "constexpr",
) -> None:  # fmt: skip
    """The weighted mean of the parts of each head."""
    if EARLY:
        begin()
        wait()
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if tl.load(positions + row * position_row) < 0:
        return
    p, d = tl.arange(0, PARTS), tl.arange(0, BD)
    lines = partial + ((row * PARTS + p) * H + head) * (D + 2)
    tops = tl.load(lines + D)
    weights = tl.exp2(tops - tl.max(tops, 0))
    mass = tl.sum(weights * tl.load(lines + D + 1), 0)
    sums = tl.load(lines[:, None] + d[None, :], mask=d[None, :] < D, other=0.0)
    tl.store(out + (row * H + head) * D + d, tl.sum(sums * weights[:, None], 0) / mass, mask=d < D)
