"""LoRA (Hu et al. 2021, arXiv 2106.09685): small matrices train beside frozen ones; merged, it is a plain model."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pronk.errors import UserError
from pronk.models.heads import Output

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class LoraConfig:
    """Adapters of low rank: only they train, which saves the memory of gradients, moments and a reference."""

    rank: int = 0
    """inner size of each adapter; 0 = off, all weights train"""
    alpha: float = 16.0
    """an adapter's product counts alpha / rank times"""
    targets: tuple[str, ...] = ()
    """matrices by the last part of their names, such as q v; none = every linear layer"""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise UserError(f"--lora.rank {self.rank}: give 0 (off) or a positive number, such as 8")
        if not self.alpha > 0:
            raise UserError(f"--lora.alpha {self.alpha:g}: give a number above 0")
        if self.targets and not self.rank:
            raise UserError("--lora.targets names what gets adapters, but --lora.rank is 0: give a rank, such as 8")


class Adapted(nn.Linear):
    """x W^T + b + (alpha / r) (x A^T) B^T, with W and b frozen; A [r, in] is random and B [out, r] zero at first."""

    def __init__(self, linear: nn.Linear, config: LoraConfig, generator: torch.Generator) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scale, self.active = config.alpha / config.rank, True
        like = {"device": self.weight.device, "dtype": self.weight.dtype}
        bound = 1 / math.sqrt(self.in_features)
        first = torch.empty(config.rank, self.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_a = nn.Parameter(first.to(**like))  # type: ignore[call-overload]
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, config.rank, **like))  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        return y + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b) if self.active else y

    @torch.no_grad()
    def whole(self) -> Tensor:
        """W + (alpha / r) B A: the one matrix that does the same."""
        return self.weight + self.scale * (self.lora_b @ self.lora_a)


def attach(model: nn.Module, config: LoraConfig, seed: int = 0) -> None:
    """Freeze the model and put adapters on its linear layers, in place; nothing where the rank is 0.

    Heads that are to be trained in full (values, scores) are put on afterwards. Raises UserError where a target
    names no layer, or the model has none.
    """
    if not config.rank:
        return
    linears = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    known = sorted({_last(name) for name in linears})
    if not known:
        raise UserError("--lora.rank: this model has no linear layers to put adapters on; train it whole (rank 0)")
    for target in config.targets:
        if target not in known:
            raise UserError(f"--lora.targets {target}: the model has no such layer; there are {', '.join(known)}")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, linear in linears.items():
        if not config.targets or _last(name) in config.targets:
            _put(model, name, Adapted(linear, config, generator))


def adapted(model: nn.Module) -> bool:
    """Whether the model has adapters."""
    return any(isinstance(module, Adapted) for module in model.modules())


def merged(model: M) -> M:
    """A plain copy that computes the same; the model itself where it has no adapters."""
    if not adapted(model):
        return model
    plain = copy.deepcopy(model).requires_grad_(False)
    for name, module in [*plain.named_modules()]:
        if isinstance(module, Adapted):
            linear = nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
            linear.weight, linear.bias = nn.Parameter(module.whole(), requires_grad=False), module.bias
            _put(plain, name, linear)
    return plain


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict that the merged model would have, without copying what is not adapted."""
    state: dict[str, Tensor] = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, Adapted):
            state[f"{name}.weight"] = module.whole()
            del state[f"{name}.lora_a"], state[f"{name}.lora_b"]
    return state


def twin(model: M) -> M:
    """A copy with adapters of its own over the same frozen weights, which exist once."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters() if not p.requires_grad})


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """Within, the model is what it was before its adapters."""
    modules = [module for module in model.modules() if isinstance(module, Adapted)]
    for module in modules:
        module.active = False
    try:
        yield
    finally:
        for module in modules:
            module.active = True


class Base(nn.Module):
    """The model without its adapters, as a frozen reference: it owns no weights, so it costs no memory."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = [model]  # in a list, so that its parameters are not this module's, too

    @torch.no_grad()
    def forward(self, *args: Any, **inputs: Any) -> Output:
        with switched_off(self._model[0]):
            output: Output = self._model[0](*args, **inputs)
        return output


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the part of this dotted name."""
    place, _, last = name.rpartition(".")
    setattr(model.get_submodule(place), last, module)
