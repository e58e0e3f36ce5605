"""Triton: queries, keys and values as one product, gate and up as another; compiled training on a GPU.

The gradients of their results lie side by side, so that the input's is one product, where layers of their own make a
sum of several. What stands around the products reads and writes once here; code that the compiler makes of the same
takes up to three times as long (LOG.md).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pronk.models.jit import ceil, constexpr, found, jit, power, tl

TOKENS = 32  # that one program turns
COLUMNS = 1024  # that one program gates


def fits(x: Tensor, *layers: nn.Module) -> bool:
    """Whether x [.., in] may go through these as one: plain linear layers without biases, in compiled code on a GPU."""
    plain = all(type(layer) is nn.Linear and layer.bias is None for layer in layers)  # no adapter, no 8 bits
    return torch.compiler.is_compiling() and x.is_cuda and found and plain


def heads(
    x: Tensor, q: nn.Linear, k: nn.Linear, v: nn.Linear, tables: tuple[Tensor, ...], size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys of x [B, T, in], turned by `positions.rotate`'s tables, and values, [B, T, heads, size] each."""
    counts = q.out_features // size, k.out_features // size
    found: tuple[Tensor, Tensor, Tensor] = _Heads.apply(x, _weight(x, q, k, v), *tables, *counts)  # type: ignore[no-untyped-call]
    return found


def gated(x: Tensor, gate: nn.Linear, up: nn.Linear) -> Tensor:
    """silu(gate(x)) * up(x)."""
    weight = _weight(x, gate, up)
    y: Tensor = _Gate.apply(F.linear(x.to(weight.dtype), weight))  # type: ignore[no-untyped-call]
    return y


def _weight(x: Tensor, *layers: nn.Linear) -> Tensor:
    """The layers' weights, one after the other, in the type that they are multiplied in."""
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
    return torch.cat([layer.weight for layer in layers]).to(dtype)


class _Heads(torch.autograd.Function):
    """Heads lie in one tensor [B, T, queries + keys + values, size] and are turned in their places."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, cosine: Tensor, sine: Tensor, queries: int, keys: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        inputs = x.to(weight.dtype)
        y = F.linear(inputs, weight).view(*x.shape[:2], queries + 2 * keys, -1)
        turn(y[:, :, : queries + keys], y, 0, (cosine, sine))
        ctx.save_for_backward(inputs, weight, cosine, sine)
        ctx.dtype = x.dtype
        return y[:, :, :queries], y[:, :, queries : queries + keys], y[:, :, queries + keys :]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, *tables = ctx.saved_tensors
        (B, T, queries, size), keys = grads[0].shape, grads[1].shape[2]
        y = torch.empty(B, T, queries + 2 * keys, size, dtype=weight.dtype, device=weight.device)
        turn(grads[0], y, 0, tables, -1)
        turn(grads[1], y, queries, tables, -1)
        turn(grads[2], y, queries + keys, tables, 0)
        rows = y.flatten(0, 1).flatten(1)
        grad_x = (rows @ weight).view(B, T, -1).to(ctx.dtype)
        return grad_x, rows.T @ inputs.flatten(0, 1), None, None, None, None


class _Gate(torch.autograd.Function):
    """silu(gate) * up of both halves, [.., 2 inner] -> [.., inner]."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, -1)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        found, slopes = torch.empty_like(both), grads[0].contiguous()
        rows, inner = slopes.shape[:-1].numel(), slopes.shape[-1]
        _gate_backward[(rows, ceil(inner, COLUMNS))](both, slopes, found, inner, COLUMNS, num_warps=4)
        return found


def turn(x: Tensor, out: Tensor, first: int, tables: Sequence[Tensor], way: int = 1) -> None:
    """Write heads x [B, T, H, size] into out [B, T, .., size] from head `first` on: turned by tables [T, 1, size] or
    [B, T, 1, size] (way 1; x may be where it is written), turned back (-1), or as they are (0)."""
    B, T, H, size = x.shape
    x, row = x if x.stride(3) == 1 else x.contiguous(), T * size if tables[0].dim() == 4 else 0
    _turn[(ceil(T, TOKENS), B)](
        *(x, out, *tables, row, *x.stride()[:3], *out.stride()[:3]),
        *(first, T, H, size // 2, way, TOKENS, power(size // 2)),
        num_warps=4,
    )


@jit
def _turn(
    x: "Any", out: "Any", cosine: "Any", sine: "Any", table_row: "Any",
    xb: "Any", xt: "Any", xh: "Any", ob: "Any", ot: "Any", oh: "Any", first: "Any", T: "Any",
    H: "constexpr", HALF: "constexpr", WAY: "constexpr", BT: "constexpr", BK: "constexpr",
) -> None:  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    t, d = tl.program_id(0) * BT + tl.arange(0, BT)[:, None], tl.arange(0, BK)[None, :]
    live = (t < T) & (d < HALF)
    source, goal = x + row * xb + t * xt + d, out + row * ob + t * ot + first * oh + d
    if WAY:
        place = row * table_row + t * (2 * HALF) + HALF + d  # in a head's second half the sine has its own sign
        c, s = tl.load(cosine + place, mask=live, other=0.0), tl.load(sine + place, mask=live, other=0.0) * WAY
    for head in range(H):
        low = tl.load(source + head * xh, mask=live, other=0.0)
        high = tl.load(source + head * xh + HALF, mask=live, other=0.0)
        if WAY:
            one, other = low.to(tl.float32), high.to(tl.float32)
            low, high = one * c - other * s, other * c + one * s
        tl.store(goal + head * oh, low.to(out.dtype.element_ty), mask=live)
        tl.store(goal + head * oh + HALF, high.to(out.dtype.element_ty), mask=live)


@jit
def _gate_backward(both: "Any", slopes: "Any", out: "Any", inner: "Any", BLOCK: "constexpr") -> None:
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = column < inner
    place = row * 2 * inner + column
    gate = tl.load(both + place, mask=live, other=0.0).to(tl.float32)
    up = tl.load(both + place + inner, mask=live, other=0.0).to(tl.float32)
    slope = tl.load(slopes + row * inner + column, mask=live, other=0.0).to(tl.float32)
    share = 1 / (1 + tl.exp(-gate))
    tl.store(out + place, slope * up * share * (1 + gate * (1 - share)), mask=live)
    tl.store(out + place + inner, slope * gate * share, mask=live)
