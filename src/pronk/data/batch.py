"""What one optimizer step eats: tensors with their shapes, and the types of losses and metrics."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

from torch import Tensor

IGNORE = -100  # a target that is not learned


class Mean(NamedTuple):
    """A metric whose parts add up: total over weight, summed over micro-batches and ranks before the division."""

    total: Tensor
    weight: Tensor


class Max(NamedTuple):
    """A metric of which the largest value counts."""

    value: Tensor


class Min(NamedTuple):
    """A metric of which the smallest value counts."""

    value: Tensor


Metric = Mean | Max | Min
Metrics = dict[str, Metric]


@dataclass
class Batch:
    """Rows of tokens. B rows, T tokens a row; padding is on the right, with target IGNORE.

    positions and documents are None where each row is one document that starts at position 0.
    """

    tokens: Tensor  # [B, T] int64
    targets: Tensor  # [B, T] int64, the token that follows, or IGNORE
    positions: Tensor | None = None  # [B, T] int64, place within the token's own document
    documents: Tensor | None = None  # [B, T] int64, which document of the row; tokens see only their own
    sources: Tensor | None = None  # [B] or [B, T] int64, index into source_names
    source_names: tuple[str, ...] = ()
    dense: bool = False  # losses compute ignored targets too, as zero: a GPU need not wait to learn which are kept
    first: int = 0  # no column before it has a target: dense losses leave those out

    def inputs(self) -> dict[str, Tensor | None]:
        """The keyword arguments of the model's forward, rows flattened to [rows, T]."""
        return {"tokens": self.tokens, "positions": self.positions, "documents": self.documents}

    def __len__(self) -> int:
        return len(self.tokens)

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """A copy with every tensor changed: to another device, to a subset of rows."""
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {k: change(v) if isinstance(v, Tensor) else v for k, v in parts.items()}
        return type(self)(**changed)

    def split(self, rows: int) -> Iterator[Self]:
        """Micro-batches of at most this many rows."""
        for start in range(0, len(self), rows):
            yield self.map(lambda x, start=start: x[start : start + rows])  # type: ignore[misc]


@dataclass
class Pairs(Batch):
    """Comparisons: tokens and targets are [B, 2, T], the chosen answer first."""

    ref_logps: Tensor | None = None  # [B, 2] summed log-probability of each answer under the frozen reference
    last: Tensor | None = None  # [B, 2] int64, place of each conversation's last token, where a score is read
    strength: Tensor | None = None  # [B] int64, 1 (slightly better) to 4; 0 = a tie; None = all 1

    def inputs(self) -> dict[str, Tensor | None]:
        return {"tokens": self.tokens.flatten(0, 1), "positions": None, "documents": None}


@dataclass
class Rollouts(Batch):
    """Sampled answers with what their advantages were made of; all [B, T], aligned with targets."""

    logps: Tensor | None = None  # under the policy that sampled, or as the engine noted them where `fresh`
    ref_logps: Tensor | None = None  # under the frozen reference
    advantages: Tensor | None = None
    values: Tensor | None = None  # of the critic at sampling time
    returns: Tensor | None = None
    fresh: bool = False  # the round's only step: the policy that learns is the one that sampled, its ratio 1
