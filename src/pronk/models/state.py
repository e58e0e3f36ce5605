"""What a model remembers of sequences it is in the middle of: made by new_state, owned by the caller, changed in place.

A state has a number of rows, one sequence each. `select` gives a view of some rows that shares their memory, so that
a forward may write into it; no tensor is ever replaced, which lets a CUDA graph hold them. A position of -1 marks
padding: nothing of it is remembered.
"""

from abc import ABC, abstractmethod
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
    """Keys and values of every layer, one slot a position, and a last slot that swallows padding."""

    def __init__(
        self, layers: int, rows: int, heads: int, length: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (layers, rows, heads, length + 1, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.length, self.rows, self.span, self.fresh = length, slice(0, rows), length, False

    def select(self, rows: Rows, span: int, fresh: bool = False) -> "KVState":
        part = object.__new__(KVState)
        part.keys, part.values, part.length = self.keys, self.values, self.length
        part.rows, part.span, part.fresh = rows, span, fresh
        return part

    def copy(self, source: Tensor, target: Tensor) -> None:
        for whole in (self.keys, self.values):
            whole[:, target, :, : self.span] = whole[:, source, :, : self.span]

    def columns(self, positions: Tensor) -> Tensor:
        """Where each position [B, T] is stored; padding goes to the last column."""
        return torch.where(positions < 0, self.length, positions)

    def write(self, layer: int, columns: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys and values [B, heads, T, head_dim] in the columns [B, T] of the selected rows."""
        rows = self.row_numbers()[:, None]
        self.keys[layer][rows, :, columns] = keys.transpose(1, 2).to(self.keys.dtype)
        self.values[layer][rows, :, columns] = values.transpose(1, 2).to(self.values.dtype)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the selected rows, [B, heads, span, head_dim]."""
        return self.keys[layer][self.rows][:, :, : self.span], self.values[layer][self.rows][:, :, : self.span]

    def row_numbers(self) -> Tensor:
        if isinstance(self.rows, Tensor):
            return self.rows
        return torch.arange(self.rows.start, self.rows.stop, device=self.keys.device)


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
