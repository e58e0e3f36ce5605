"""Triton kernels that take in prompts of unequal length packed one after another, without padding, into the cache."""

from typing import Any

import torch
from torch import Tensor

from pronk.models.jit import constexpr, jit, power, tl
from pronk.models.kernels import precision
from pronk.models.kernels_attention import LOG2E, Heads, _fold, _half_pair, _normed, _put, _turned

TILE = 64  # queries of one prompt that a program attends with


def store(
    qkv: Tensor,
    shape: Heads,
    rotary: tuple[Tensor, Tensor] | None,
    places: Tensor,
    rows: Tensor,
    keys: Tensor,
    values: Tensor,
    gains: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Turn queries and keys of tokens qkv [N, ..] by their positions `places` [N], queries in place; keys and values
    go into their `rows` [N] of this layer's cache. Nothing of a token at place -1 is kept. gains: as in
    kernels_attention.decode."""
    H, G, D, _, eps = shape
    cosine, sine = rotary or (qkv, qkv)
    gain_q, gain_k = gains or (qkv, qkv)
    _store[(len(qkv),)](
        *(qkv, cosine, sine, gain_q, gain_k, places, rows, keys, values, eps),
        *(qkv.stride(0), keys.stride(0), keys.stride(1), H, G, D),
        **{"HALF": power(D // 2), "BH": power(H + 2 * G), "ROTARY": rotary is not None},
        **{"NORM": gains is not None, "num_warps": 4},
    )


@jit
def _store(
    qkv: "Any", cosine: "Any", sine: "Any", gain_q: "Any", gain_k: "Any", places: "Any", rows: "Any", keys: "Any",
    values: "Any",
    eps: "Any", qkv_row: "Any", row_stride: "Any", head_stride: "Any",
    H: "constexpr", G: "constexpr", D: "constexpr", HALF: "constexpr", BH: "constexpr", ROTARY: "constexpr",
    NORM: "constexpr",
) -> None:  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    place, row = tl.load(places + token), tl.load(rows + token)
    h, d = tl.arange(0, BH)[:, None], tl.arange(0, HALF)[None, :]
    real = (h < H + 2 * G) & (d < D // 2) & (place >= 0)
    place = tl.maximum(place, 0)
    at = token * qkv_row + h * D + d
    first, second = _half_pair(qkv, at, real, D)
    turned1, turned2 = first, second
    if NORM:
        queries = _normed(first, second, gain_q, eps, D, HALF)
        turned1, turned2 = _normed(first, second, gain_k, eps, D, HALF)
        turned1 = tl.where(h < H, queries[0], turned1)
        turned2 = tl.where(h < H, queries[1], turned2)
    if ROTARY:
        cos = tl.load(cosine + place * (D // 2) + d, mask=d < D // 2, other=0.0).to(tl.float32)
        sin = tl.load(sine + place * (D // 2) + d, mask=d < D // 2, other=0.0).to(tl.float32)
        turned1, turned2 = _turned(turned1, turned2, cos, sin)
    if ROTARY or NORM:
        _put(qkv, at, turned1, turned2, real & (h < H), D)
    slot = row * row_stride + place * D + d
    _put(keys, slot + (h - H) * head_stride, turned1, turned2, real & (h >= H) & (h < H + G), D)
    _put(values, slot + (h - H - G) * head_stride, first, second, real & (h >= H + G), D)


def tiles(lengths: list[int], rows: list[int]) -> Tensor:
    """(first token, tokens, row) of each program's queries, [tiles, 3] int32, for prompts packed in this order. A row
    of zeros is a program with nothing to do."""
    found, first = [], 0
    for length, row in zip(lengths, rows):
        found += [(first + at, min(TILE, length - at), row) for at in range(0, length, TILE)]
        first += length
    return torch.tensor(found, dtype=torch.int32)


def attend(qkv: Tensor, shape: Heads, places: Tensor, work: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Each token sees what is stored in its row up to its own position. After `store`; work: from `tiles`. Returns
    [N, heads * head_dim]."""
    H, G, D, scale, _ = shape
    out = torch.empty(len(qkv), H * D, dtype=qkv.dtype, device=qkv.device)
    _attend[(len(work), H)](
        *(qkv, places, work, keys, values, out, scale * LOG2E, qkv.stride(0), keys.stride(0), keys.stride(1)),
        *(H, G, D, power(D // 2)),
        **{"BM": TILE, "BN": 64, "PRECISION": precision(), "num_warps": 4, "num_stages": 2},
    )
    return out


@jit
def _attend(
    qkv: "Any", places: "Any", work: "Any", keys: "Any", values: "Any", out: "Any", scale: "Any",
    qkv_row: "Any", row_stride: "Any", head_stride: "Any",
    H: "constexpr", G: "constexpr", D: "constexpr", HALF: "constexpr", BM: "constexpr", BN: "constexpr",
    PRECISION: "constexpr",
) -> None:  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    first, count = tl.load(work + tile * 3), tl.load(work + tile * 3 + 1)
    row = tl.load(work + tile * 3 + 2).to(tl.int64)
    if count == 0:
        return
    m, d, n = tl.arange(0, BM), tl.arange(0, HALF), tl.arange(0, BN)
    tokens, real = (first + m).to(tl.int64), d < D // 2
    place = tl.load(places + tokens, mask=m < count, other=0)
    own = (m[:, None] < count) & real[None, :]
    q1, q2 = _half_pair(qkv, tokens[:, None] * qkv_row + head * D + d[None, :], own, D)
    base = row * row_stride + (head // (H // G)) * head_stride
    top = tl.full([BM], float("-inf"), tl.float32)
    mass = tl.zeros([BM], tl.float32)
    sum1, sum2 = tl.zeros([BM, HALF], tl.float32), tl.zeros([BM, HALF], tl.float32)
    end = tl.max(place, 0) + 1
    for start in range(0, end, BN):
        live, sight = start + n < end, (start + n)[None, :] <= place[:, None]
        top, mass, sum1, sum2 = _fold(
            q1, q2, keys, values, base, start + n, live, sight, scale, top, mass, sum1, sum2, D, HALF, PRECISION
        )
    to = (tokens[:, None] * H + head) * D + d[None, :]
    _put(out, to, sum1 / mass[:, None], sum2 / mass[:, None], own, D)
