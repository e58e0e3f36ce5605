"""Triton: causal attention of rows so short that one tile holds all of a head, forward and backward; CUDA only.

The library's kernels work in tiles of 64 to 128 tokens: of a row of ten, nine tenths of their work is for nobody.
"""

from typing import Any

import torch
from torch import Tensor

from pronk.models.jit import constexpr, found, jit, power, tl
from pronk.models.kernels import precision

LONGEST, WIDEST = 32, 128  # tokens of a row, numbers of a head: what a program holds


def fits(q: Tensor, k: Tensor) -> bool:
    """Whether `attend` is for these: queries and keys of whole rows, on a GPU, outside of compiled code."""
    known = q.is_cuda and found and q.dtype in (torch.float32, torch.bfloat16, torch.float16)
    small = q.shape[2] == k.shape[2] <= LONGEST and q.shape[3] <= WIDEST
    return known and small and not torch.compiler.is_compiling()


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """softmax(scale q k^T) v in causal order, with q [B, H, T, K], k and v [B, G, T, K]; scale None = 1 / sqrt(K).

    In autocast's type, as torch's own attention is."""
    if torch.is_autocast_enabled("cuda"):
        q, k, v = (x.to(torch.get_autocast_dtype("cuda")) for x in (q, k, v))
    return _Short.apply(q, k, v, q.shape[3] ** -0.5 if scale is None else scale)  # type: ignore[no-untyped-call]


class _Short(torch.autograd.Function):
    """Nothing but the inputs is kept: backward makes the weights again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.scale = scale
        out = _rows_like(q)
        _launch(_forward, q, k, v, (out,), scale)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        found = _rows_like(q), _rows_like(k), _rows_like(v)
        _launch(_backward, q, k, v, (grads[0], *found), ctx.scale)
        return *found, None


def _rows_like(x: Tensor) -> Tensor:
    """Memory for [B, H, T, K] that lies as [B, T, H, K]: what comes before and after joins the heads of a token."""
    B, H, T, K = x.shape
    return torch.empty(B, T, H, K, dtype=x.dtype, device=x.device).transpose(1, 2)


def _launch(kernel: Any, q: Tensor, k: Tensor, v: Tensor, more: tuple[Tensor, ...], scale: float) -> None:
    """A program for each row and head of keys."""
    B, H, T, K = q.shape
    tensors = [x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v, *more)]
    strides = [size for x in tensors for size in x.stride()[:3]]
    kernel[(B, k.shape[1])](
        *tensors, *strides, scale, T, K, H // k.shape[1],
        **{"BT": power(T), "BK": power(K), "PRECISION": precision(), "num_warps": 1 if T <= 16 else 4},
    )  # fmt: skip


@jit
def _rows(
    x: "Any", row: "Any", head: "Any", xb: "Any", xh: "Any", xt: "Any", t: "Any", d: "Any",
    T: "constexpr", K: "constexpr",
) -> "Any":  # fmt: skip
    """One head's tokens of a row, [BT, BK]; 0 beyond T and K."""
    return tl.load(x + row * xb + head * xh + t * xt + d, mask=(t < T) & (d < K), other=0.0)


@jit
def _weights(q: "Any", k: "Any", scale: "Any", t: "Any", s: "Any", T: "constexpr", PRECISION: "constexpr") -> "Any":
    """The causal softmax of one head, [BT, BT]; 0 in columns and rows beyond T."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    scores = tl.where((s <= t) & (s < T), scores, float("-inf"))
    scores = tl.exp(scores - tl.max(scores, 1)[:, None])
    return tl.where(t < T, scores / tl.sum(scores, 1)[:, None], 0.0)


@jit
def _forward(
    q: "Any", k: "Any", v: "Any", out: "Any",
    qb: "Any", qh: "Any", qt: "Any", kb: "Any", kh: "Any", kt: "Any", vb: "Any", vh: "Any", vt: "Any",
    ob: "Any", oh: "Any", ot: "Any", scale: "Any",
    T: "constexpr", K: "constexpr", SHARE: "constexpr", BT: "constexpr", BK: "constexpr", PRECISION: "constexpr",
) -> None:  # fmt: skip
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    t, s, d = tl.arange(0, BT)[:, None], tl.arange(0, BT)[None, :], tl.arange(0, BK)[None, :]
    real = (t < T) & (d < K)
    keys = _rows(k, row, group, kb, kh, kt, t, d, T, K)
    values = _rows(v, row, group, vb, vh, vt, t, d, T, K)
    for head in range(group * SHARE, (group + 1) * SHARE):
        queries = _rows(q, row, head, qb, qh, qt, t, d, T, K)
        weights = _weights(queries, keys, scale, t, s, T, PRECISION)
        seen = tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
        tl.store(out + row * ob + head * oh + t * ot + d, seen, mask=real)


@jit
def _backward(
    q: "Any", k: "Any", v: "Any", grad: "Any", grad_q: "Any", grad_k: "Any", grad_v: "Any",
    qb: "Any", qh: "Any", qt: "Any", kb: "Any", kh: "Any", kt: "Any", vb: "Any", vh: "Any", vt: "Any",
    gb: "Any", gh: "Any", gt: "Any", aqb: "Any", aqh: "Any", aqt: "Any", akb: "Any", akh: "Any", akt: "Any",
    avb: "Any", avh: "Any", avt: "Any", scale: "Any",
    T: "constexpr", K: "constexpr", SHARE: "constexpr", BT: "constexpr", BK: "constexpr", PRECISION: "constexpr",
) -> None:  # fmt: skip
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    t, s, d = tl.arange(0, BT)[:, None], tl.arange(0, BT)[None, :], tl.arange(0, BK)[None, :]
    real = (t < T) & (d < K)
    keys = _rows(k, row, group, kb, kh, kt, t, d, T, K)
    values = _rows(v, row, group, vb, vh, vt, t, d, T, K)
    of_keys, of_values = tl.zeros([BT, BK], tl.float32), tl.zeros([BT, BK], tl.float32)
    for head in range(group * SHARE, (group + 1) * SHARE):
        queries = _rows(q, row, head, qb, qh, qt, t, d, T, K)
        slopes = _rows(grad, row, head, gb, gh, gt, t, d, T, K)
        weights = _weights(queries, keys, scale, t, s, T, PRECISION)
        of_values += tl.dot(tl.trans(weights).to(slopes.dtype), slopes, input_precision=PRECISION)
        of_weights = tl.dot(slopes, tl.trans(values), input_precision=PRECISION)
        of_scores = weights * (of_weights - tl.sum(weights * of_weights, 1)[:, None]) * scale
        of_scores = of_scores.to(queries.dtype)
        of_queries = tl.dot(of_scores, keys, input_precision=PRECISION)
        of_keys += tl.dot(tl.trans(of_scores), queries, input_precision=PRECISION)
        tl.store(grad_q + row * aqb + head * aqh + t * aqt + d, of_queries, mask=real)
    tl.store(grad_k + row * akb + group * akh + t * akt + d, of_keys, mask=real)
    tl.store(grad_v + row * avb + group * avh + t * avt + d, of_values, mask=real)
