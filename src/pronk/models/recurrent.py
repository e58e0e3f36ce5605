"""Recurrent language models: Elman's layers, LSTM or GRU between an embedding and a head, with attention or without.

Elman 1990; Hochreiter & Schmidhuber 1997; Cho et al. 2014 (arXiv 1406.1078); Luong et al. 2015 (arXiv 1508.04025).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from pronk.models.attention import attend
from pronk.models.config import ModelConfig
from pronk.models.heads import Head, Output
from pronk.models.state import CellState, PastState


@dataclass(frozen=True)
class Cell:
    """gates: matrices side by side. vectors: what is carried on (hidden; hidden and cell). run: torch's layer, which
    takes them as `given` makes them."""

    gates: int
    vectors: int
    run: Callable[..., Any]
    given: Callable[[tuple[Tensor, ...]], Any]


EMBEDDED = 0.02  # deviation of a fresh embedding's numbers, small since the head shares them
CELLS = {
    "rnn": Cell(1, 1, torch.rnn_tanh, itemgetter(0)),
    "gru": Cell(3, 1, torch.gru, itemgetter(0)),
    "lstm": Cell(4, 2, torch.lstm, tuple),
}


class RecurrentLayer(nn.Module):
    """One layer; its parameters are its own (not flattened), so that they may be sharded and swapped."""

    def __init__(self, family: str, width: int, size: float = 1.0) -> None:
        """size: deviation of the input's numbers; gates that hardly hear their tokens learn late (LOG.md)."""
        super().__init__()
        self.cell = CELLS[family]
        self.weight_in = nn.Parameter(torch.empty(self.cell.gates * width, width))
        self.weight_hidden = nn.Parameter(torch.empty(self.cell.gates * width, width))
        self.bias_in = nn.Parameter(torch.empty(self.cell.gates * width))
        self.bias_hidden = nn.Parameter(torch.empty(self.cell.gates * width))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(width), 1 / math.sqrt(width))
        with torch.no_grad():
            self.weight_in.div_(size)

    def forward(self, x: Tensor, start: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [B, T, D] from vectors [B, vectors * D] -> outputs [B, T, D] and the vectors after each row's last token.

        lengths [B] (on the CPU) stops rows early; None = all T tokens are real. Computed in the weights' own type,
        autocast or not: cuDNN's gradients of bfloat16 weights have float16's range, and end at 65,504 (LOG.md).
        """
        with torch.autocast(x.device.type, enabled=False):
            return self._run(x.to(self.weight_in.dtype), start.to(self.weight_in.dtype), lengths)

    def _run(self, x: Tensor, start: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        weights: list[Tensor] = [self.weight_in, self.weight_hidden, self.bias_in, self.bias_hidden]
        weights = side_by_side(weights) if x.is_cuda else weights
        first = tuple(part.contiguous() for part in start[None].chunk(self.cell.vectors, -1))
        if lengths is None:
            y, *end = self.cell.run(x, self.cell.given(first), weights, True, 1, 0.0, self.training, False, True)
            return y, torch.cat(end, -1)[0]
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        order, back = packed.sorted_indices, packed.unsorted_indices
        given = self.cell.given(tuple(part[:, order] for part in first))
        data, *end = self.cell.run(packed.data, packed.batch_sizes, given, weights, True, 1, 0.0, self.training, False)
        y, _ = pad_packed_sequence(PackedSequence(data, packed.batch_sizes, order, back), True, total_length=x.shape[1])
        return y, torch.cat(end, -1)[0, back]


def side_by_side(weights: list[Tensor]) -> list[Tensor]:
    """The same in one piece of memory, as cuDNN wants them: it warns and copies them one by one otherwise."""
    whole = torch.cat([weight.flatten() for weight in weights])
    return [part.view_as(weight) for part, weight in zip(torch.split(whole, [w.numel() for w in weights]), weights)]


class Remember(nn.Module):
    """Luong's global attention with dot scores, over the layer's own past: tanh(W [context, h]), context = sum of the
    states before h, weighted by softmax(h . state); the zero vector that a row begins with is the first of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.combine = nn.Linear(2 * width, width, bias=False)

    def forward(self, h: Tensor, positions: Tensor | None, state: CellState | None) -> Tensor:
        """h [B, T, D] -> [B, T, D]; with a state, positions [B, T] say where the tokens stand, -1 = padding."""
        B, T, D = h.shape
        past, at = h, torch.arange(T, device=h.device).expand(B, T)
        if isinstance(state, PastState):
            at = at if positions is None else positions
            past = state.remember(at, h)
        past = torch.cat((past.new_zeros(B, 1, D), past), 1)[:, None]
        seen = torch.arange(past.shape[2], device=h.device) <= at.clamp(min=0)[:, :, None]
        context = attend(h[:, None], past, past, seen[:, None], 1.0)[:, 0]
        return self.combine(torch.cat((context, h), -1)).tanh()


class Forget(nn.Module):
    """No attention: a state is all that is known of the past."""

    def forward(self, h: Tensor, positions: Tensor | None, state: CellState | None) -> Tensor:
        return h


class Recurrent(nn.Module):
    """Embedding, recurrent layers with residual sums, final norm, head. One document a row: state would leak."""

    packs = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.width)
        nn.init.normal_(self.embed.weight, std=EMBEDDED)
        self.dropout = nn.Dropout(config.dropout)
        self.size = CELLS[config.family].vectors * config.width  # of what a layer carries on
        sizes = [EMBEDDED] + [1.0] * (config.layers - 1)
        self.blocks = nn.ModuleList(RecurrentLayer(config.family, config.width, size) for size in sizes)
        self.recall = nn.ModuleList(Forget() for _ in range(config.layers - 1))
        self.recall.append(Remember(config.width) if config.recurrent_attention else Forget())
        self.norm = nn.RMSNorm(config.width, config.norm_eps)
        self.head = Head(config.vocab, config.width, self.embed if config.tied else None)
        if not config.tied:
            nn.init.normal_(self.head.weight, std=EMBEDDED)

    def new_state(self, rows: int, length: int) -> CellState:
        """Vectors for `rows` sequences; only with attention does their size depend on length."""
        c, weight = self.config, self.embed.weight
        if c.recurrent_attention:
            return PastState(c.layers, rows, self.size, weight.dtype, weight.device, length, c.width)
        return CellState(c.layers, rows, self.size, weight.dtype, weight.device)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        state: CellState | None = None,
    ) -> Output:
        """tokens [B, T]. Without attention, positions matter only where they are -1 (padding on the right, with a
        state)."""
        if documents is not None:
            raise ValueError("a recurrent model takes one document a row: data.order must keep documents apart")
        B, T = tokens.shape
        real = positions >= 0 if state is not None and positions is not None else None
        lengths = real.sum(1).clamp(min=1).cpu() if real is not None and T > 1 else None
        x = self.dropout(self.embed(tokens))
        for layer, (block, recall) in enumerate(zip(self.blocks, self.recall)):
            start = x.new_zeros(B, self.size) if state is None else state.read(layer)
            y, end = block(x, start, lengths)
            x = x + self.dropout(recall(y, positions, state))
            if state is not None:
                if real is not None:  # rows of padding alone keep what they had
                    end = torch.where(real.any(1, keepdim=True), end, start)
                state.write(layer, end)
        return Output(self.norm(x), self.head)
