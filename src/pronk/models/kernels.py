"""Triton kernels of decoder blocks: products with what stands around them, norms, gates; attention has its own file.

Weights are read once and sums are float32. Every function here has a plain counterpart in torch that its test names.
"""

from typing import Any

import torch
from torch import Tensor

from pronk.models.jit import begin, ceil, constexpr, early, fetch, jit, power, tl, wait

PIECE = 16  # columns of a block where sums of squares are kept
NARROW = 2048  # width from which the library's products are the faster ones from two rows on


def few(rows: int, width: int) -> bool:
    """Whether `linear` is faster than the library's product with kernels around it."""
    return rows <= (128 if width < NARROW else 64)


def precision() -> str:
    """How float32 products are made, by torch's own switch."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def linear(
    x: Tensor,
    weight: Tensor,
    eps: float | None = None,
    gain: Tensor | None = None,
    bias: Tensor | None = None,
    add: Tensor | None = None,
    gate: bool = False,
    squares: Tensor | None = None,
) -> Tensor:
    """x [M, K] and weight [N, K] -> [M, N], for few rows, with everything around the product in one kernel.

    eps: x is normalised first (RMSNorm), with gain [K] where it is not in the weight already. bias [N]. add [M, N]: the
    result is added to it in place. gate: weight holds a gate and an up half; the result is silu(gate) * up, [M, N / 2].
    squares [M, pieces(width)], for more rows than one: with add, filled with sums of squares of pieces of the result's
    rows; with eps, those of x, so that the norm need not look at all of x first. Where they are handed on, all kernels
    of a layer are ours, and each starts while the last ends.
    """
    M, K = x.shape
    N = len(weight) // 2 if gate else len(weight)
    out = torch.empty(M, N, dtype=x.dtype, device=x.device) if add is None else add
    flags = {"NORM": eps is not None, "GAIN": gain is not None, "GATE": gate, "ADD": add is not None}
    given = (x, weight, x if gain is None else gain, x if bias is None else bias, out)
    soon = early(M, chained=squares is not None)
    flags |= {"BIAS": bias is not None, "EARLY": soon, "launch_pdl": soon}
    if M == 1:
        BN, BK, warps = _matvec_blocks(N, K)
        _matvec[(ceil(N, BN),)](*given, N, K, eps or 0.0, **flags, BN=BN, BK=BK, num_warps=warps)
        return out
    BM, BN, BK, warps, stages = _linear_blocks(M, N, gate, add is not None and squares is not None)
    grid = (ceil(M, BM), ceil(N, BN))
    sizes: dict[str, Any] = {"BM": BM, "BN": BN, "BK": BK, "LINES": power(ceil(K * weight.itemsize, 128), 1)}
    sizes |= {"PRECISION": precision(), "num_warps": warps, "num_stages": stages}
    sums, count = (x, 0) if squares is None else (squares, squares.shape[1])
    _linear[grid](*given, sums, M, N, K, eps or 0.0, SUMS=count, LANES=power(count), **flags, **sizes)
    return out


def pieces(width: int) -> int:
    """Into how many pieces `linear` cuts a row of so many columns where it fills `squares`."""
    return ceil(width, PIECE)


def _matvec_blocks(N: int, K: int) -> tuple[int, int, int]:
    """Columns, depth and warps of a block."""
    if N >= 16_384:  # a vocabulary: fewer, larger pieces
        return (8, 1024, 8) if K >= 1024 else (16, power(K), 8)
    return (2, 1024, 4) if K >= 1024 else (4, power(K), 4)


def _linear_blocks(M: int, N: int, gate: bool, narrow: bool) -> tuple[int, int, int, int, int]:
    """Rows, columns, depth, warps and stages of a block: small enough that a narrow product still fills the GPU."""
    if narrow:
        return power(min(M, 64)), PIECE, 128, 4, 4
    if gate:
        return power(min(M, 64)), 16 if N <= 2048 and M > 16 else 32 if N <= 2048 else 64, 128, 4, 3
    return power(min(M, 64)), 32, 64, 4, 5


@jit
def _linear(
    x: "Any", w: "Any", gain: "Any", bias: "Any", out: "Any", sums: "Any", M: "Any", N: "Any", K: "constexpr",
    eps: "Any", SUMS: "constexpr", LANES: "constexpr",
    NORM: "constexpr", GAIN: "constexpr", GATE: "constexpr", ADD: "constexpr", BIAS: "constexpr",
    PRECISION: "constexpr", EARLY: "constexpr", BM: "constexpr", BN: "constexpr", BK: "constexpr", LINES: "constexpr",
) -> None:  # fmt: skip
    rows, cols = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    ks = tl.arange(0, BK)
    xs = x + rows[:, None] * K + ks[None, :]
    ws = w + cols[None, :].to(tl.int64) * K + ks[:, None]
    half = tl.cast(N, tl.int64) * K
    total = tl.zeros([BM, BN], tl.float32)
    other = tl.zeros([BM, BN], tl.float32)
    squares = tl.zeros([BM], tl.float32)
    if EARLY:
        line = tl.arange(0, LINES) * (128 // w.dtype.element_ty.primitive_bitwidth * 8)
        first = w + tl.minimum(cols, N - 1)[:, None].to(tl.int64) * K + tl.minimum(line, K - 1)[None, :]
        fetch(first)
        if GATE:
            fetch(first + half)
        wait()
    if NORM and SUMS:
        lane = tl.arange(0, LANES)
        there = (rows[:, None] < M) & (lane[None, :] < SUMS)
        squares = tl.sum(tl.load(sums + rows[:, None] * SUMS + lane[None, :], mask=there, other=0.0), 1)
    for k in range(0, K, BK):
        inside = ks + k < K
        mask = (cols[None, :] < N) & inside[:, None]
        b = tl.load(ws + k, mask=mask, other=0.0)
        a = tl.load(xs + k, mask=(rows[:, None] < M) & inside[None, :], other=0.0)
        if NORM and (GAIN or not SUMS):
            full = a.to(tl.float32)
            if not SUMS:
                squares += tl.sum(full * full, 1)
            if GAIN:
                a = (full * tl.load(gain + k + ks, mask=inside, other=0.0)[None, :]).to(b.dtype)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        if GATE:
            up = tl.load(ws + half + k, mask=mask, other=0.0)
            other = tl.dot(a, up, other, input_precision=PRECISION)
    if EARLY:
        begin()
    if NORM:
        scale = tl.rsqrt(squares / K + eps)[:, None]
        total *= scale
        other *= scale
    if BIAS:
        total += tl.load(bias + cols, mask=cols < N, other=0.0)[None, :]
        if GATE:
            other += tl.load(bias + N + cols, mask=cols < N, other=0.0)[None, :]
    if GATE:
        total = total * tl.sigmoid(total) * other
    places = out + rows[:, None] * N + cols[None, :]
    valid = (rows[:, None] < M) & (cols[None, :] < N)
    if ADD:
        total += tl.load(places, mask=valid, other=0.0)
        if SUMS:
            kept = tl.where(valid, total.to(out.dtype.element_ty).to(tl.float32), 0.0)
            tl.store(sums + rows * SUMS + tl.program_id(1), tl.sum(kept * kept, 1), mask=rows < M)
    tl.store(places, total, mask=valid)


@jit
def _matvec(
    x: "Any", w: "Any", gain: "Any", bias: "Any", out: "Any", N: "Any", K: "constexpr", eps: "Any",
    NORM: "constexpr", GAIN: "constexpr", GATE: "constexpr", ADD: "constexpr", BIAS: "constexpr",
    EARLY: "constexpr", BN: "constexpr", BK: "constexpr",
) -> None:  # fmt: skip
    cols, ks = tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, BK)
    ws = w + cols[:, None].to(tl.int64) * K + ks[None, :]
    half = tl.cast(N, tl.int64) * K
    total = tl.zeros([BN, BK], tl.float32)
    other = tl.zeros([BN, BK], tl.float32)
    squares = tl.zeros([BK], tl.float32)
    if EARLY:
        begin()
    for k in range(0, K, BK):
        inside = ks + k < K
        mask = (cols[:, None] < N) & inside[None, :]
        b = tl.load(ws + k, mask=mask, other=0.0)
        up = b
        if GATE:
            up = tl.load(ws + half + k, mask=mask, other=0.0)
        if EARLY and k == 0:
            wait()  # the first weights are on their way
        a = tl.load(x + k + ks, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            squares += a * a
            if GAIN:
                a *= tl.load(gain + k + ks, mask=inside, other=0.0).to(tl.float32)
        if GATE:
            other += up.to(tl.float32) * a[None, :]
        total += b.to(tl.float32) * a[None, :]
    y, z = tl.sum(total, 1), tl.sum(other, 1)
    if NORM:
        scale = tl.rsqrt(tl.sum(squares, 0) / K + eps)
        y *= scale
        z *= scale
    if BIAS:
        y += tl.load(bias + cols, mask=cols < N, other=0.0)
        if GATE:
            z += tl.load(bias + N + cols, mask=cols < N, other=0.0)
    if GATE:
        y = y * tl.sigmoid(y) * z
    if ADD:
        y += tl.load(out + cols, mask=cols < N, other=0.0)
    tl.store(out + cols, y, mask=cols < N)


def norm(x: Tensor, eps: float, gain: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """RMSNorm of the rows of x [M, K], with gain [K] or without; with shift [K] LayerNorm."""
    out = torch.empty_like(x)
    M, K = x.shape
    flags = {"GAIN": gain is not None, "SHIFT": shift is not None, "EARLY": early(M), "launch_pdl": early(M)}
    given = (x, x if gain is None else gain, x if shift is None else shift, out)
    _norm[(M,)](*given, K, eps, **flags, BK=power(K), num_warps=4 if K <= 2048 else 8)
    return out


@jit
def _norm(
    x: "Any", gain: "Any", shift: "Any", out: "Any", K: "constexpr", eps: "Any",
    GAIN: "constexpr", SHIFT: "constexpr", EARLY: "constexpr", BK: "constexpr",
) -> None:  # fmt: skip
    row, ks = tl.program_id(0).to(tl.int64), tl.arange(0, BK)
    if EARLY:
        begin()
        wait()
    a = tl.load(x + row * K + ks, mask=ks < K, other=0.0).to(tl.float32)
    if SHIFT:
        a = tl.where(ks < K, a - tl.sum(a, 0) / K, 0.0)
    a *= tl.rsqrt(tl.sum(a * a, 0) / K + eps)
    if GAIN:
        a *= tl.load(gain + ks, mask=ks < K, other=0.0)
    if SHIFT:
        a += tl.load(shift + ks, mask=ks < K, other=0.0)
    tl.store(out + row * K + ks, a, mask=ks < K)


def active(x: Tensor, kind: str) -> Tensor:
    """What a feed-forward does between its products: "gelu" and "relu" of x [M, N], or silu(gate) * up, [M, N], of x
    [M, 2 N] that holds both halves."""
    gated = kind not in ("gelu", "relu")
    M, N = x.shape[0], x.shape[1] // (2 if gated else 1)
    out = torch.empty(M, N, dtype=x.dtype, device=x.device)
    _active[(M, ceil(N, 1024))](x, out, N, KIND=kind, EARLY=early(M), BN=1024, num_warps=4, launch_pdl=early(M))
    return out


@jit
def _active(x: "Any", out: "Any", N: "Any", KIND: "constexpr", EARLY: "constexpr", BN: "constexpr") -> None:
    row, cols = tl.program_id(0).to(tl.int64), tl.program_id(1) * BN + tl.arange(0, BN)
    if EARLY:
        begin()
        wait()
    if KIND == "gelu":  # by its tanh formula: x sigmoid(2 u)
        a = tl.load(x + row * N + cols, mask=cols < N, other=0.0).to(tl.float32)
        y = a * tl.sigmoid(1.5957691216057308 * (a + 0.044715 * a * a * a))
    elif KIND == "relu":
        a = tl.load(x + row * N + cols, mask=cols < N, other=0.0).to(tl.float32)
        y = tl.maximum(a, 0.0)
    else:
        a = tl.load(x + row * 2 * N + cols, mask=cols < N, other=0.0).to(tl.float32)
        y = a * tl.sigmoid(a) * tl.load(x + row * 2 * N + N + cols, mask=cols < N, other=0.0).to(tl.float32)
    tl.store(out + row * N + cols, y, mask=cols < N)


def embed(tokens: Tensor, weight: Tensor, places: Tensor | None = None, table: Tensor | None = None) -> Tensor:
    """Rows of weight [V, D] for tokens [M, 1], with those of a table [context, D] at places [M, 1] added; -1 = 0."""
    M, D = len(tokens), weight.shape[1]
    out = torch.empty(M, D, dtype=weight.dtype, device=weight.device)
    where, added = (tokens, weight) if places is None or table is None else (places, table)
    given = (tokens, where, weight, added, out, tokens.stride(0), where.stride(0))
    _embed[(M,)](*given, D, ADD=table is not None, EARLY=early(M), BD=power(D), num_warps=4, launch_pdl=early(M))
    return out


@jit
def _embed(
    tokens: "Any", places: "Any", weight: "Any", table: "Any", out: "Any", token_row: "Any", place_row: "Any",
    D: "constexpr", ADD: "constexpr", EARLY: "constexpr", BD: "constexpr",
) -> None:  # fmt: skip
    row, d = tl.program_id(0).to(tl.int64), tl.arange(0, BD)
    if EARLY:
        begin()
        wait()
    token = tl.maximum(tl.load(tokens + row * token_row), 0)
    x = tl.load(weight + token * D + d, mask=d < D, other=0.0)
    if ADD:
        place = tl.maximum(tl.load(places + row * place_row), 0)
        x += tl.load(table + place * D + d, mask=d < D, other=0.0)
    tl.store(out + row * D + d, x, mask=d < D)
