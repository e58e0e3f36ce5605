"""A round's work cut among ranks: each does its share, and all of them hold the whole of what came out."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pronk.data.batch import Batch
from pronk.errors import UserError

T = TypeVar("T")
B = TypeVar("B", bound=Batch)


class Share:
    """Rank r of R has the r-th of R equal stretches. ranks None: one process, which has it all."""

    def __init__(self, ranks: dist.ProcessGroup | None = None) -> None:
        self.ranks = ranks
        self.rank, self.world = (dist.get_rank(ranks), dist.get_world_size(ranks)) if ranks else (0, 1)

    def check(self, what: str, count: int) -> None:
        if count % self.world:
            raise UserError(f"{what} {count} must be a multiple of the {self.world} ranks")

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        size = len(items) // self.world
        return items[self.rank * size : (self.rank + 1) * size]

    def whole(self, items: Sequence[T]) -> Sequence[T]:
        """Every rank's stretch, in order; items as pickle knows them."""
        if self.ranks is None:
            return items
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, list(items), group=self.ranks)
        return [item for stretch in found for item in stretch]

    def whole_tensor(self, rows: Tensor) -> Tensor:
        """Every rank's rows [B / R, ..] as [B, ..]."""
        if self.ranks is None:
            return rows
        found = [torch.empty_like(rows) for _ in range(self.world)]
        dist.all_gather(found, rows.contiguous(), group=self.ranks)
        return torch.cat(found)

    def rows(self, batch: B) -> B:
        size = len(batch) // self.world
        return batch if self.ranks is None else batch.map(lambda x: x[self.rank * size : (self.rank + 1) * size])
