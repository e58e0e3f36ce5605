"""What a forward returns, and the heads that read it: vocabulary, values, and policy with critic."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pronk.models.state import State


class Head(nn.Module):
    """hidden [..., D] -> logits [..., V]. The losses read its weight, so that no [tokens, V] tensor need exist."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, vocab: int, width: int, tied: nn.Embedding | None = None, biased: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab, width)) if tied is None else tied.weight  # type: ignore[assignment]
        self.bias = nn.Parameter(torch.empty(vocab)) if biased else None

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight, self.bias)


class Output(NamedTuple):
    """What every family's forward returns. hidden is after the final norm."""

    hidden: Tensor  # [B, T, D]
    head: Head  # hidden -> logits [.., V]
    aux: Tensor | None = None  # scalar to add to the loss (a router's balance)
    values: Tensor | None = None  # [B, T], where a critic or scorer is attached


class ValueHead(nn.Linear):
    """One number a token; weights of deviation 1/sqrt(D + 1) and no bias at first, so that early scores are small."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=1 / math.sqrt(self.in_features + 1))
        nn.init.zeros_(self.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden)[..., 0]


class Scorer(nn.Module):
    """A body with one number a token: critics and reward models."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.value = body, ValueHead(width)

    def forward(self, *args: Any, **inputs: Any) -> Output:
        output: Output = self.body(*args, **inputs)
        return output._replace(values=self.value(output.hidden))


class ActorCritic(nn.Module):
    """A policy with values: from a separate critic of any size, or from a value head on the shared body."""

    def __init__(self, policy: nn.Module, critic: Scorer | None = None, width: int = 0) -> None:
        super().__init__()
        if critic is None and not width:
            raise ValueError("a value head on the shared body needs the policy's width")
        self.policy = policy
        self.critic: Scorer | ValueHead = ValueHead(width) if critic is None else critic

    def forward(self, *args: Any, **inputs: Any) -> Output:
        output: Output = self.policy(*args, **inputs)
        if isinstance(self.critic, ValueHead):
            return output._replace(values=self.critic(output.hidden))
        return output._replace(values=self.critic(*args, **inputs).values)

    def new_state(self, rows: int, length: int) -> State:
        """The policy's: generation does not need the critic."""
        state: State = self.policy.new_state(rows, length)  # type: ignore[operator]
        return state


def disable_dropout(model: nn.Module) -> nn.Module:
    """Set every dropout to zero: sampled and trained distributions must be the same one."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model
