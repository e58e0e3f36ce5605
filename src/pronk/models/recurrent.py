"""Recurrent language models: LSTM layers (Hochreiter & Schmidhuber 1997) between an embedding and a head."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from pronk.models.config import ModelConfig
from pronk.models.heads import Head, Output
from pronk.models.state import CellState


class LSTMLayer(nn.Module):
    """One layer; its parameters are its own (not flattened), so that they may be sharded and swapped."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight_in = nn.Parameter(torch.empty(4 * width, width))
        self.weight_hidden = nn.Parameter(torch.empty(4 * width, width))
        self.bias_in = nn.Parameter(torch.empty(4 * width))
        self.bias_hidden = nn.Parameter(torch.empty(4 * width))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(width), 1 / math.sqrt(width))

    def forward(
        self, x: Tensor, start: tuple[Tensor, Tensor], lengths: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [B, T, D] from (hidden, cell) [B, D] each -> outputs [B, T, D] and the pair after each row's last token.

        lengths [B] (on the CPU) stops rows early; None = all T tokens are real.
        """
        weights: list[Tensor] = [self.weight_in, self.weight_hidden, self.bias_in, self.bias_hidden]
        first = (start[0][None], start[1][None])
        if lengths is None:
            y, hidden, cell = torch.lstm(x, first, weights, True, 1, 0.0, self.training, False, True)
            return y, (hidden[0], cell[0])
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        order, back = packed.sorted_indices, packed.unsorted_indices
        first = (first[0][:, order], first[1][:, order])
        data, hidden, cell = torch.lstm(
            packed.data, packed.batch_sizes, first, weights, True, 1, 0.0, self.training, False
        )
        y, _ = pad_packed_sequence(PackedSequence(data, packed.batch_sizes, order, back), True, total_length=x.shape[1])
        return y, (hidden[0, back], cell[0, back])


class Recurrent(nn.Module):
    """Embedding, LSTM layers with residual sums, final norm, head. One document a row: state would leak between."""

    packs = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(LSTMLayer(config.width) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.norm_eps)
        self.head = Head(config.vocab, config.width, self.embed if config.tied else None)
        if not config.tied:
            nn.init.normal_(self.head.weight, std=0.02)

    def new_state(self, rows: int, length: int) -> CellState:
        """Hidden and cell vectors for `rows` sequences; their size does not depend on length."""
        weight = self.embed.weight
        return CellState(self.config.layers, rows, self.config.width, weight.dtype, weight.device)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        state: CellState | None = None,
    ) -> Output:
        """tokens [B, T]. positions matter only where they are -1 (padding on the right, with a state)."""
        if documents is not None:
            raise ValueError("a recurrent model takes one document a row: data.order must keep documents apart")
        B, T = tokens.shape
        real = positions >= 0 if state is not None and positions is not None else None
        lengths = real.sum(1).clamp(min=1).cpu() if real is not None and T > 1 else None
        x = self.dropout(self.embed(tokens))
        for layer, block in enumerate(self.blocks):
            start = self._start(state, layer, B, x)
            y, end = block(x, start, lengths)
            x = x + self.dropout(y)
            if state is not None:
                if real is not None:  # rows of padding alone keep what they had
                    alive = real.any(1, keepdim=True)
                    end = (torch.where(alive, end[0], start[0]), torch.where(alive, end[1], start[1]))
                state.write(layer, *end)
        return Output(self.norm(x), self.head)

    @staticmethod
    def _start(state: CellState | None, layer: int, rows: int, like: Tensor) -> tuple[Tensor, Tensor]:
        if state is not None:
            return state.read(layer)
        zeros = like.new_zeros(rows, like.shape[-1])
        return zeros, zeros
