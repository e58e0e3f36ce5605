"""What a model remembers of sequences it is in the middle of: made by new_state, owned by the caller, changed in place.

A state has a number of rows, one sequence each. `select` gives a view of some rows that shares their memory, so that
a forward may write into it; no tensor is ever replaced, which lets a CUDA graph hold them. A position of -1 marks
padding: nothing of it is remembered.
"""

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

    def select(self, rows: Rows, span: int, fresh: bool = False) -> "KVState":
        part = object.__new__(KVState)
        part.stores, part.keys, part.values, part.length = self.stores, self.keys, self.values, self.length
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
        rows = self.row_numbers()[:, None]
        self.keys[layer][rows, :, columns] = keys.transpose(1, 2).to(self.keys[layer].dtype)
        self.values[layer][rows, :, columns] = values.transpose(1, 2).to(self.values[layer].dtype)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the selected rows, [B, heads, span or ring, head_dim]; never the last column."""
        keys, values = self.keys[layer][self.rows], self.values[layer][self.rows]
        span = min(self.span, keys.shape[2] - 1)
        return keys[:, :, :span], values[:, :, :span]

    def row_numbers(self) -> Tensor:
        if isinstance(self.rows, Tensor):
            return self.rows
        return torch.arange(self.rows.start, self.rows.stop, device=self.keys[0].device)


class CellState(State):
    """Hidden and cell vectors of recurrent layers: [layers, rows, width] each."""

    def __init__(self, layers: int, rows: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.hidden = torch.zeros(layers, rows, width, dtype=dtype, device=device)
        self.cell = torch.zeros_like(self.hidden)
        self.rows, self.span, self.fresh = slice(0, rows), 0, False

    def select(self, rows: Rows, span: int, fresh: bool = False) -> "CellState":
        part = object.__new__(CellState)
        part.hidden, part.cell = self.hidden, self.cell
        part.rows, part.span, part.fresh = rows, span, fresh
        return part

    def copy(self, source: Tensor, target: Tensor) -> None:
        for whole in (self.hidden, self.cell):
            whole[:, target] = whole[:, source]

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Hidden and cell of the selected rows, [B, width]; zeros where the rows are fresh."""
        hidden, cell = self.hidden[layer][self.rows], self.cell[layer][self.rows]
        return (torch.zeros_like(hidden), torch.zeros_like(cell)) if self.fresh else (hidden.clone(), cell.clone())

    def write(self, layer: int, hidden: Tensor, cell: Tensor) -> None:
        self.hidden[layer, self.rows], self.cell[layer, self.rows] = hidden, cell
