"""What a model remembers of sequences it is in the middle of: made by new_state, owned by the caller, changed in place.

A state has a number of rows, one sequence each. `select` gives a view of some rows that shares their memory, so that
a forward may write into it; no tensor is ever replaced, which lets a CUDA graph hold them. A position of -1 marks
padding: nothing of it is remembered.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

Rows = slice | Tensor  # a run of rows (a view, free) or chosen rows [B] (gathered where read)


class State(ABC):
    """rows: which rows a forward reads and writes; span: how many columns are in use; fresh: rows hold nothing yet."""

    rows: Rows
    span: int
    fresh: bool

    @abstractmethod
    def select(self, rows: Rows, span: int, fresh: bool = False) -> Self:
        """The same memory, seen through these rows; positions read and written stay below span."""

    @abstractmethod
    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copy whole rows: source [n] -> target [n]. Shares a prompt between samples and closes gaps."""


class KVState(State):
    """Keys and values of every layer, one column a position, and a last column that swallows padding.

    A layer with a window below `length` keeps a ring of as many columns: position p lies in column p modulo the
    window. keys and values: one tensor a layer, [rows, heads, columns + 1, head_dim], views of one memory for all
    layers of a size.
    """

    def __init__(
        self,
        windows: Sequence[int],
        rows: int,
        heads: int,
        length: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """windows: each layer's, 0 = none."""
        self.length, self.rows, self.span, self.fresh = length, slice(0, rows), length, False
        sizes = [self.size(window) for window in windows]
        self.stores = {
            size: torch.zeros(2, sizes.count(size), rows, heads, size + 1, head_dim, dtype=dtype, device=device)
            for size in sorted(set(sizes))
        }
        places = [self.stores[size][:, sizes[:layer].count(size)] for layer, size in enumerate(sizes)]
        self.keys, self.values = [place[0] for place in places], [place[1] for place in places]

    def size(self, window: int) -> int:
        """Columns of a layer with this window."""
        return min(window or self.length, self.length)

    def wraps(self, window: int) -> bool:
        """Whether a layer with this window forgets: its ring is shorter than the longest sequence."""
        return self.size(window) < self.length

    def select(self, rows: Rows, span: int, fresh: bool = False) -> Self:
        part = copy.copy(self)
        part.rows, part.span, part.fresh = rows, span, fresh
        return part

    def copy(self, source: Tensor, target: Tensor) -> None:
        for size, whole in self.stores.items():
            span = min(self.span, size)
            whole[:, :, target, :, :span] = whole[:, :, source, :, :span]

    def columns(self, positions: Tensor, window: int = 0) -> Tensor:
        """Where a layer with this window stores each position [B, T]; padding goes to the last column, as does what
        the same forward overwrites."""
        size = self.size(window)
        if not self.wraps(window):
            return torch.where(positions < 0, size, positions)
        lost = positions <= positions.amax(1, keepdim=True) - size
        return torch.where((positions < 0) | lost, size, positions % size)

    def join(self, layer: int, columns: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values [B, heads, T, head_dim], and return what queries attend to: of fresh rows the new ones;
        else what is stored; of a ring and many tokens the ring as it was and then the new ones."""
        if self.fresh:
            self.write(layer, columns, keys, values)
            return keys, values
        if keys.shape[2] > 1 and self.keys[layer].shape[2] <= self.length:
            old_keys, old_values = self.read(layer)
            whole = torch.cat((old_keys, keys), 2), torch.cat((old_values, values), 2)
            self.write(layer, columns, keys, values)
            return whole
        self.write(layer, columns, keys, values)
        return self.read(layer)

    def write(self, layer: int, columns: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys and values [B, heads, T, head_dim] in the columns [B, T] of the selected rows."""
        rows = row_numbers(self.rows, self.keys[layer])[:, None]
        self.keys[layer][rows, :, columns] = keys.transpose(1, 2).to(self.keys[layer].dtype)
        self.values[layer][rows, :, columns] = values.transpose(1, 2).to(self.values[layer].dtype)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the selected rows, [B, heads, span or ring, head_dim]; never the last column."""
        keys, values = self.keys[layer][self.rows], self.values[layer][self.rows]
        span = min(self.span, keys.shape[2] - 1)
        return keys[:, :, :span], values[:, :, :span]


class CellState(State):
    """The vectors that each recurrent layer carries on, side by side: [layers, rows, size]."""

    def __init__(self, layers: int, rows: int, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.vectors = torch.zeros(layers, rows, size, dtype=dtype, device=device)
        self.rows, self.span, self.fresh = slice(0, rows), 0, False

    def select(self, rows: Rows, span: int, fresh: bool = False) -> Self:
        part = copy.copy(self)
        part.rows, part.span, part.fresh = rows, span, fresh
        return part

    def copy(self, source: Tensor, target: Tensor) -> None:
        self.vectors[:, target] = self.vectors[:, source]

    def read(self, layer: int) -> Tensor:
        """Vectors of the selected rows, [B, size]; zeros where the rows are fresh."""
        vectors = self.vectors[layer][self.rows]
        return torch.zeros_like(vectors) if self.fresh else vectors.clone()

    def write(self, layer: int, vectors: Tensor) -> None:
        self.vectors[layer, self.rows] = vectors


class PastState(CellState):
    """And every output of one layer, for attention: [rows, length + 1, width], the last column swallows padding."""

    def __init__(
        self, layers: int, rows: int, size: int, dtype: torch.dtype, device: torch.device, length: int, width: int
    ) -> None:
        super().__init__(layers, rows, size, dtype, device)
        self.past = torch.zeros(rows, length + 1, width, dtype=dtype, device=device)
        self.span = length

    def copy(self, source: Tensor, target: Tensor) -> None:
        super().copy(source, target)
        self.past[target, : self.span] = self.past[source, : self.span]

    def remember(self, positions: Tensor, outputs: Tensor) -> Tensor:
        """Store outputs [B, T, width] at positions [B, T] of the selected rows; return their columns [B, span, width].

        Columns that hold nothing yet are above every position."""
        columns = torch.where(positions < 0, self.past.shape[1] - 1, positions)
        self.past[row_numbers(self.rows, self.past)[:, None], columns] = outputs.to(self.past.dtype)
        return self.past[self.rows][:, : self.span]


def row_numbers(rows: Rows, whole: Tensor) -> Tensor:
    """The selected rows as indices, on the device of `whole`."""
    return rows if isinstance(rows, Tensor) else torch.arange(rows.start, rows.stop, device=whole.device)
