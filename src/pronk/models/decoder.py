"""The decoder-only transformer: pre-norm blocks of attention and feed-forward (Llama, arXiv 2302.13971)."""

import torch
from torch import Tensor, nn

from pronk.models.attention import Attention, visible
from pronk.models.config import ModelConfig
from pronk.models.feedforward import FEEDFORWARDS
from pronk.models.heads import Head, Output
from pronk.models.positions import Rotary
from pronk.models.state import KVState


class Block(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config, layer)
        self.feedforward_norm = nn.RMSNorm(config.width, config.norm_eps)
        self.feedforward = FEEDFORWARDS[config.feedforward](config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        state: KVState | None,
        columns: Tensor | None,
    ) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), rotary, mask, state, columns))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


class Decoder(nn.Module):
    """Tokens to hidden vectors, with a head to logits."""

    packs = True  # several documents may share a row

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.rotary = Rotary(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.norm_eps)
        self.head = Head(config.vocab, config.width, self.embed if config.tied else None)
        self.reset()

    def reset(self) -> None:
        """Normal weights: variance 1/D for the embedding, so that a tied head begins with logits of variance 1, and
        1/(2 fan_in) for matrices; those that write into the stream shrink by sqrt(2 layers) (GPT-2).

        At width 128 this reaches the loss of a deviation of 0.02 in two thirds of the steps (LOG.md).
        """
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                inside = "blocks." in name
                writes = name.endswith(("attention.o.weight", "feedforward.down.weight"))
                shrink = 2 * self.config.layers if writes else 1
                nn.init.normal_(parameter, std=((0.5 if inside else 1.0) / parameter.shape[1] / shrink) ** 0.5)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        self.rotary.reset()

    def new_state(self, rows: int, length: int) -> KVState:
        """Room for the keys and values of `rows` sequences of up to `length` tokens, in the weights' type."""
        c, weight = self.config, self.embed.weight
        return KVState(c.layers, rows, c.key_heads, length, c.head_size, weight.dtype, weight.device)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        state: KVState | None = None,
    ) -> Output:
        """tokens [B, T]; positions and documents [B, T] or None (0..T-1, one document a row); see State for state."""
        T = tokens.shape[1]
        if T > self.config.context:
            raise ValueError(f"{T} tokens are more than the model's context of {self.config.context}")
        columns = None
        if state is not None:
            places = positions if positions is not None else torch.arange(T, device=tokens.device).expand_as(tokens)
            columns = state.columns(places)
        mask = visible(positions, documents, state, T)
        rotary = self.rotary(positions, T)
        x = self.dropout(self.embed(tokens))
        for block in self.blocks:
            x = block(x, rotary, mask, state, columns)
        return Output(self.norm(x), self.head)
