"""AdamW in one pass over a GPU's memory, which scales gradients on the way; rule and state are torch.optim.AdamW's."""

from typing import Any

import torch
from torch import Tensor

from pronk.models.jit import ceil, constexpr, jit, tl

BLOCK = 1024  # numbers that one program moves: few, so that a small matrix occupies the whole GPU


class OnePass(torch.optim.AdamW):
    """Loshchilov and Hutter 2019 (arXiv 1711.05101). Rates are tensors, so that a CUDA graph may hold steps."""

    @torch.no_grad()
    def step(self, closure: Any = None, factor: Tensor | None = None) -> None:  # type: ignore[override]
        """factor: what gradients are to be multiplied by, a number on their device; not a number: nothing moves."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["step"] = torch.zeros((), device=parameter.device)
                    self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
                    self.state[parameter]["exp_avg_sq"] = torch.zeros_like(parameter)
            if parameters:
                counts = [self.state[parameter]["step"] for parameter in parameters]
                one = torch.ones_like(counts[0]) if factor is None else (factor == factor).to(counts[0].dtype)
                torch._foreach_add_(counts, [one] * len(counts))  # as a list: a lone tensor would be read on the host
            for parameter in parameters:
                state, grad = self.state[parameter], parameter.grad.contiguous()
                _move[(ceil(parameter.numel(), BLOCK),)](
                    *(parameter, grad, state["exp_avg"], state["exp_avg_sq"], group["lr"], state["step"]),
                    *(group["lr"] if factor is None else factor, group["weight_decay"], *group["betas"], group["eps"]),
                    *(parameter.numel(), factor is not None, BLOCK),
                    num_warps=8,
                )


@jit
def _move(
    weights: "Any", grads: "Any", means: "Any", squares: "Any", rate: "Any", count: "Any", factor: "Any",
    decay: "Any", beta1: "Any", beta2: "Any", eps: "Any", N: "Any",
    SCALED: "constexpr", BLOCK: "constexpr",
) -> None:  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < N
    if SCALED:
        scale = tl.load(factor)
        live = at < tl.where(scale == scale, N, 0)
    lr, steps = tl.load(rate), tl.load(count)
    weight, grad = tl.load(weights + at, mask=live), tl.load(grads + at, mask=live)
    mean, square = tl.load(means + at, mask=live), tl.load(squares + at, mask=live)
    if SCALED:
        grad *= scale
    mean += (1 - beta1) * (grad - mean)
    square += (1 - beta2) * (grad * grad - square)
    first, second = 1 - tl.exp(steps * tl.log(beta1)), 1 - tl.exp(steps * tl.log(beta2))
    weight -= lr * decay * weight + lr / first * mean / (tl.sqrt(square / second) + eps)
    tl.store(weights + at, weight, mask=live)
    tl.store(means + at, mean, mask=live)
    tl.store(squares + at, square, mask=live)
