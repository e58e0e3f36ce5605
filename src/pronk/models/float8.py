"""Linear layers that multiply in 8-bit floats where their block is compiled; parameters and results keep their types.

Micikevicius et al. 2022 (arXiv 2209.05433): inputs and weights as e4m3, gradients as e5m2, each tensor scaled anew so
that its largest magnitude just fits. GPUs from Hopper on multiply these at twice the rate of bfloat16.
"""

from typing import Any

import torch
from torch import Tensor, nn

FORTH, BACK = torch.float8_e4m3fn, torch.float8_e5m2
ALIGNED = 16  # sizes that such products need are multiples of this


class Float8Linear(nn.Linear):
    """A linear layer without bias; a plain one in eager code, such as evaluation, and for odd numbers of tokens."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() or x.shape[:-1].numel() % ALIGNED:
            return super().forward(x)
        y: Tensor = _Product.apply(x.flatten(0, -2), self.weight)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)


def to_float8(model: nn.Module) -> int:
    """Let the blocks' linear layers multiply in 8 bits, in place where shapes and biases allow; returns how many."""
    found = [
        module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and "blocks." in name and module.bias is None
        if module.in_features % ALIGNED == module.out_features % ALIGNED == 0
    ]
    for module in found:
        module.__class__ = Float8Linear  # names and parameters stay
    return len(found)


def rounded(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x in 8 bits, and the number that it has to be multiplied by to be x again."""
    scale = x.abs().amax().float().clamp(min=1e-12) / torch.finfo(dtype).max
    return (x * (1 / scale)).to(dtype), scale


class _Product(torch.autograd.Function):
    """x [N, in] times weight [out, in] transposed, in bfloat16; N a multiple of ALIGNED."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        (a, by_a), (b, by_b) = rounded(x, FORTH), rounded(weight, FORTH)
        ctx.save_for_backward(a, by_a, b, by_b)
        ctx.dtype = x.dtype
        return _multiply(a, b, by_a, by_b, torch.bfloat16, fast=True)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor]:
        a, by_a, b, by_b = ctx.saved_tensors
        g, by_g = rounded(grads[0], BACK)
        grad_x = _multiply(g, b.t().contiguous(), by_g, by_b, torch.bfloat16)
        grad_weight = _multiply(g.t().contiguous(), a.t().contiguous(), by_g, by_a, torch.float32)
        return grad_x.to(ctx.dtype), grad_weight


def _multiply(a: Tensor, b: Tensor, by_a: Tensor, by_b: Tensor, dtype: torch.dtype, fast: bool = False) -> Tensor:
    """a [N, K] times b [M, K] transposed. fast: sums are rounded more coarsely on the way."""
    return torch._scaled_mm(a, b.t(), scale_a=by_a, scale_b=by_b, out_dtype=dtype, use_fast_accum=fast)
