"""Optimizers and learning-rate schedules: AdamW, SGD, and Muon for matrices, chosen by one dataclass."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from pronk.errors import UserError
from pronk.learn.adamw import OnePass
from pronk.models import jit


@dataclass(frozen=True)
class OptimConfig:
    """How a group of parameters is moved."""

    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    """muon moves the blocks' matrices, with AdamW for the rest"""
    lr: float = 3e-3
    """peak learning rate"""
    adam_lr: float = 0.0
    """muon: peak rate of embeddings, norms and biases; 0 = lr"""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """after the warmup; wsd = constant, then linear over the last `decay` of the steps"""
    warmup: int = 20
    """steps from 0 to the peak"""
    decay: float = 0.2
    """wsd: share of the steps that decay"""
    final: float = 0.1
    """share of the peak that is left at the last step"""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    momentum: float = 0.95
    """muon and sgd"""
    weight_decay: float = 0.1
    """of matrices; never of norms and biases"""
    clip: float = 1.0
    """largest norm of the group's gradient; 0 = off"""


def schedule(config: OptimConfig, step: int, steps: int) -> float:
    """Share of the peak learning rate for optimizer step `step` (from 0) of `steps`; the last one gets `final`."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = min(1.0, (step - config.warmup) / max(1, steps - 1 - config.warmup))
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "cosine":
        return config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * progress))
    if config.schedule == "linear":
        return 1.0 - (1 - config.final) * progress
    tail = max(0.0, (progress - (1 - config.decay)) / config.decay) if config.decay else 0.0
    return 1.0 - (1 - config.final) * tail


class Muon(Optimizer):
    """Momentum whose matrix is orthogonalised by Newton-Schulz (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    Matrices of one shape are handled as one batch. The step is scaled by 0.2 sqrt(max(rows, columns)), so that its
    root mean square, and thus lr and weight decay, are those of AdamW (Liu et al. 2025, arXiv 2502.16982).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """dtype: of the orthogonalisation; bfloat16 is enough (Jordan et al.)."""
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None, factor: Tensor | None = None) -> None:  # type: ignore[override]
        """factor: as OnePass's; rates are tensors then."""
        for group in self.param_groups:
            lr = group["lr"] if factor is None else group["lr"] * (factor == factor)
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                averages = torch.stack(self._momenta(parameters, group["momentum"], factor))
                updates = orthogonalize(averages.to(self.dtype)).to(averages.dtype)
                root = math.sqrt(max(shape))
                torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
                if isinstance(lr, Tensor):
                    torch._foreach_sub_(parameters, list((updates * (lr * 0.2 * root)).unbind()))
                else:
                    torch._foreach_add_(parameters, list(updates.unbind()), alpha=-(lr * 0.2 * root))

    def _momenta(self, parameters: list[Tensor], momentum: float, factor: Tensor | None) -> tuple[Tensor, ...]:
        """Nesterov momentum of each gradient; momentum stays as it is where the factor is not a number."""
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        averages = [self.state[p]["momentum"] for p in parameters]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if factor is not None:
            torch._foreach_mul_(gradients, factor)
            known = factor == factor
            for gradient, average in zip(gradients, averages):
                torch.where(known, gradient, average, out=gradient)
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        found: tuple[Tensor, ...] = torch._foreach_lerp(gradients, averages, momentum)
        return found


def orthogonalize(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Bring the singular values of each matrix [N, rows, columns] near 1."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        if x.is_cuda:  # the same polynomial in fewer kernels
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
        else:
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class Group:
    """Parameters that share a configuration: their own schedule, clip and gradient norm."""

    def __init__(
        self,
        name: str,
        config: OptimConfig,
        parameters: dict[str, nn.Parameter],
        dtype: torch.dtype,
        graphs: bool = False,
    ) -> None:
        """dtype: in which the model computes. graphs: steps may be captured, so rates live on the device."""
        if not parameters:
            raise ValueError(f"no parameter belongs to the group '{name}'")
        self.name, self.config, self.parameters = name, config, parameters
        self.optimizers = _optimizers(config, parameters, dtype, graphs)
        device = next(iter(parameters.values())).device
        self.ahead = graphs and all(isinstance(one, OnePass | Muon) for one in self.optimizers)
        for group in (g for optimizer in self.optimizers for g in optimizer.param_groups):
            group["peak"] = group["lr"]
            if graphs:
                group |= {"lr": torch.tensor(group["lr"], device=device), "capturable": True}

    def set_rate(self, step: int, steps: int) -> float:
        """Set the learning rates for this step; returns the group's own."""
        share = schedule(self.config, step, steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(group["peak"] * share)
                else:
                    group["lr"] = group["peak"] * share
        return self.config.lr * share

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def norm(self) -> Tensor:
        """2-norm of all gradients of the group, over all shards."""
        norm = nn.utils.get_total_norm(self.gradients())
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def step(self, factor: Tensor) -> None:
        """Let the optimizers move the weights by factor times the gradients; `ahead`: not at all if it is no number."""
        for optimizer in self.optimizers:
            if isinstance(optimizer, OnePass) or (self.ahead and isinstance(optimizer, Muon)):
                optimizer.step(factor=factor)
                continue
            moved = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            torch._foreach_mul_([g.to_local() if isinstance(g, DTensor) else g for g in moved], factor)
            optimizer.step()

    def forget(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None


def _optimizers(
    config: OptimConfig, parameters: dict[str, nn.Parameter], dtype: torch.dtype, graphs: bool
) -> list[Optimizer]:
    matrices = [p for p in parameters.values() if p.dim() >= 2]
    vectors = [p for p in parameters.values() if p.dim() < 2]
    if config.optimizer == "sgd":
        decayed = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return [torch.optim.SGD([g for g in decayed if g["params"]], config.lr, config.momentum)]
    if config.optimizer == "adamw":
        return [_adamw(config, config.lr, matrices, vectors, graphs)]
    if any(isinstance(p, DTensor) for p in parameters.values()):
        raise UserError("optim.optimizer = muon needs whole matrices, but the model is sharded: use adamw")
    inside = {n: p for n, p in parameters.items() if "blocks." in n and p.dim() == 2}
    outside = [p for n, p in parameters.items() if n not in inside and p.dim() >= 2]
    muon = Muon(inside.values(), config.lr, config.momentum, config.weight_decay, dtype)
    return [muon, _adamw(config, config.adam_lr or config.lr, outside, vectors, graphs)]


def _adamw(
    config: OptimConfig, lr: float, decayed: list[nn.Parameter], plain: list[nn.Parameter], graphs: bool
) -> Optimizer:
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    fused = decayed[0].device.type in ("cpu", "cuda") if decayed else False
    kind = OnePass if graphs and jit.found and all(p.is_cuda for p in (*decayed, *plain)) else torch.optim.AdamW
    return kind([g for g in groups if g["params"]], lr, (config.beta1, config.beta2), config.eps, fused=fused)
