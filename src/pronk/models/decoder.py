"""The decoder-only transformer: blocks of attention and feed-forward; Llama (arXiv 2302.13971) and its ancestors."""

import torch
from torch import Tensor, nn

from pronk.models import flex
from pronk.models.attention import Attention, View, visible
from pronk.models.config import ModelConfig
from pronk.models.feedforward import FEEDFORWARDS
from pronk.models.heads import Head, Output
from pronk.models.norms import RMSNorm
from pronk.models.positions import EMBEDDED, Rotary, Still, Table
from pronk.models.state import KVState

NORMS: dict[str, type[RMSNorm] | type[nn.LayerNorm]] = {"rms": RMSNorm, "layer": nn.LayerNorm}


class Block(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        norm = NORMS[config.norm]
        self.attention_norm = norm(config.width, config.norm_eps)
        self.attention = Attention(config, layer)
        self.feedforward_norm = norm(config.width, config.norm_eps)
        self.feedforward = FEEDFORWARDS[config.feedforward](config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rotary: tuple[Tensor, ...], view: View) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), rotary, view))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


class PostBlock(Block):
    """norm(x + attention(x)), then norm(x + feedforward(x)): the Transformer of 2017 and GPT."""

    def forward(self, x: Tensor, rotary: tuple[Tensor, ...], view: View) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, rotary, view)))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x)))


class ParallelBlock(Block):
    """x + attention(norm(x)) + feedforward(norm(x)), one norm for both (Phi, after GPT-J)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        del self.feedforward_norm

    def forward(self, x: Tensor, rotary: tuple[Tensor, ...], view: View) -> Tensor:
        y = self.attention_norm(x)
        return x + self.dropout(self.attention(y, rotary, view)) + self.dropout(self.feedforward(y))


BLOCKS = {"pre": Block, "post": PostBlock, "parallel": ParallelBlock}


class Decoder(nn.Module):
    """Tokens to hidden vectors, with a head to logits."""

    packs = True  # several documents may share a row

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.position_embedding = EMBEDDED[config.positions](config)
        self.rotary = Rotary(config) if config.positions == "rotary" else Still()
        self.blocks = nn.ModuleList(BLOCKS[config.block](config, layer) for layer in range(config.layers))
        self.windows = config.windows
        ended = config.block == "post"  # by the last block's own norm
        self.norm = nn.Identity() if ended else NORMS[config.norm](config.width, config.norm_eps)
        self.head = Head(config.vocab, config.width, self.embed if config.tied else None, config.head_bias)
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
        for module in self.modules():
            if isinstance(module, Table):
                module.reset()

    def new_state(self, rows: int, length: int) -> KVState:
        """Room for the keys and values of `rows` sequences of up to `length` tokens, in the weights' type."""
        c, weight = self.config, self.embed.weight
        return KVState(c.windows, rows, c.key_heads, length, c.head_size, weight.dtype, weight.device)

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
        rotary = self.rotary(positions, T)
        x = _computing(self.dropout(self.position_embedding(self.embed(tokens), positions)))
        compiled = self.blocks[0]._compiled_call_impl is not None
        views = {window: _view(window, tokens, positions, documents, state, compiled) for window in set(self.windows)}
        for block, window in zip(self.blocks, self.windows):
            x = block(x, rotary, views[window])
        return Output(self.norm(x), self.head)


def _computing(x: Tensor) -> Tensor:
    """The stream in the type that a GPU's autocast multiplies in: between products half of the bytes move (LOG.md)."""
    return x.to(torch.get_autocast_dtype("cuda")) if x.is_cuda and torch.is_autocast_enabled("cuda") else x


def _view(
    window: int,
    tokens: Tensor,
    positions: Tensor | None,
    documents: Tensor | None,
    state: KVState | None,
    compiled: bool,
) -> View:
    """What layers with this window see, and where they store the new tokens."""
    T = tokens.shape[1]
    if state is None and (documents is not None or 0 < window < T) and flex.fits(tokens, compiled):
        return View(flex.blocks(documents, T, window, tokens.device))
    mask = visible(positions, documents, state, T, window, tokens.device)
    if state is None:
        return View(mask)
    places = positions if positions is not None else torch.arange(T, device=tokens.device).expand_as(tokens)
    return View(mask, state, state.columns(places, window))
