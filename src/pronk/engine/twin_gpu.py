"""A faster twin of a decoder on a CUDA GPU, from Triton kernels: one token a row, or whole prompts packed."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import chain
from typing import Any, TypeGuard, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pronk.engine.forward import prefill
from pronk.engine.quick import Quick, Through
from pronk.models import kernels, kernels_attention, kernels_prefill
from pronk.models.attention import Attention
from pronk.models.build import Model
from pronk.models.decoder import Block, Decoder
from pronk.models.feedforward import Gelu, Plain, SwiGLU, SwiGLUSingle
from pronk.models.heads import Head
from pronk.models.norms import RMSNorm
from pronk.models.positions import Learned, Rotary, Still, Unplaced
from pronk.models.state import KVState, State

# What the twin is written for: a model of other parts, or with another knob turned, runs itself.
PARTS = {Decoder, Block, Attention, SwiGLU, SwiGLUSingle, Plain, Rotary, Still, Unplaced, Learned, Head, nn.Identity}
PARTS |= {nn.ModuleList, nn.Linear, nn.Embedding, RMSNorm, nn.LayerNorm, nn.Dropout, Gelu, nn.ReLU}
KNOBS = {
    *("preset", "family", "vocab", "width", "layers", "heads", "kv_heads", "head_dim", "norm", "feedforward"),
    *("ffn_dim", "ffn_dim_multiplier", "multiple_of", "context", "norm_eps", "rope_theta", "rope_factor", "rope_low"),
    *("rope_high", "rope_original", "attention_bias", "attention_scaled", "window", "window_every", "positions"),
    *("qk_norm", "tied", "dropout"),
}
WIDE = 64  # the library's product is several times slower where the vocabulary is not a multiple of 8


def known(model: nn.Module) -> TypeGuard[Decoder]:
    """Whether the twin gives what this model gives: nothing wrapped, hooked or added."""
    if not isinstance(model, Decoder) or model.config.family != "decoder" or model.config.positions == "sinusoidal":
        return False
    if model.config.head_size % 2 or any(getattr(model.config, f.name) != f.default for f in _unknown(model)):
        return False
    return all(type(m) in PARTS and not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def _unknown(model: Decoder) -> list[Any]:
    return [field for field in fields(model.config) if field.name not in KNOBS]


class Widened(Quick):
    """Any model, with the rows of its head filled up: see WIDE."""

    def __init__(self, model: Model) -> None:
        self._of, self.config, self.head = model, model.config, model.head
        self.dtype, self._plain = model.embed.weight.dtype, type(model.head) is Head and model.head.bias is None
        short = -len(model.head.weight) % WIDE
        self.top = F.pad(model.head.weight.detach(), (0, 0, 0, short)) if short else model.head.weight

    def fits(self, model: Model) -> bool:
        return model is self._of and model.embed.weight.dtype == self.dtype

    @torch.no_grad()
    def refresh(self) -> None:
        if self.top is not self.head.weight:
            self.top[: self.config.vocab].copy_(self.head.weight)

    def new_state(self, rows: int, length: int) -> State:
        return self._of.new_state(rows, length)

    def logits(self, tokens: Tensor, positions: Tensor, state: State, span: int) -> Tensor:
        hidden = self._of(tokens, positions=positions, state=state.select(slice(0, len(tokens)), span)).hidden[:, 0]
        return F.linear(hidden, self.top)[:, : self.config.vocab] if self._plain else self.head(hidden)

    def prefill(
        self, prompts: Sequence[Sequence[int]], rows: range, *rest: Any, through: Through | None = None
    ) -> None:
        prefill(self._of, prompts, rows, *rest)


class GpuTwin(Widened):
    """A decoder's own weights, those that multiply the same vectors joined, and the gain of the RMS norm before them
    multiplied in."""

    def __init__(self, model: Decoder) -> None:
        super().__init__(model)
        c = model.config
        scale = c.head_size**-0.5 if c.attention_scaled else 1.0
        self.shape = kernels_attention.Heads(c.heads, c.key_heads, c.head_size, scale, c.norm_eps)
        self.rotary: tuple[Tensor, Tensor] | None = None
        if c.positions == "rotary":
            with model.embed.weight.device:
                table = Rotary(c)  # in float32, whatever the weights are in
            self.rotary = (table.cosine, table.sine)
        self.layers = [Joined(cast(Block, block), c.norm == "rms", c.feedforward) for block in model.blocks]

    @torch.no_grad()
    def refresh(self) -> None:
        super().refresh()
        for layer in self.layers:
            layer.refresh()

    def reach(self, rows: int, span: int) -> int:
        return kernels_attention.splits(rows, self.shape.kv_heads, span) * kernels_attention.SPLIT

    @torch.no_grad()
    def logits(self, tokens: Tensor, positions: Tensor, state: State, span: int) -> Tensor:
        """What is read of the state is what each row's position says, whatever the span."""
        cache, parts = cast(KVState, state), kernels_attention.splits(len(tokens), self.shape.kv_heads, span)

        def attend(layer: int, qkv: Tensor) -> Tensor:
            given = (self.shape, self.rotary, positions, cache.keys[layer], cache.values[layer], parts)
            chained = self.layers[layer].chains(len(tokens))
            return kernels_attention.decode(qkv, *given, self.layers[layer].gains, chained=chained)

        x = self._through(self._embedded(tokens, positions), attend)
        norm = cast(RMSNorm | nn.LayerNorm, self._of.norm)
        eps, shift = norm.eps or 0.0, norm.bias if isinstance(norm, nn.LayerNorm) else None
        if len(x) == 1 and shift is None:
            return kernels.linear(x, self.top, eps, norm.weight)[:, : self.config.vocab]
        return F.linear(kernels.norm(x, eps, norm.weight, shift), self.top)[:, : self.config.vocab]

    def prefill(
        self, prompts: Sequence[Sequence[int]], rows: range, *rest: Any, through: Through | None = None
    ) -> None:
        """Packed one after another instead of padded: as many in a forward as `most` allows."""
        starts, state, device, most = rest
        if any(state.wraps(window) for window in self.config.windows):
            prefill(self._of, prompts, rows, *rest)  # a prompt may overwrite what its own tokens must see
            return
        groups: list[list[tuple[Sequence[int], int, int]]] = [[]]
        total = 0
        for ids, row, start in zip(prompts, rows, starts):
            if total and total + len(ids) > most:
                groups.append([])
                total = 0
            groups[-1] += [(ids, row, start)] if ids else []
            total += len(ids)
        for group in groups:
            if group:
                columns, work = _packed(group)
                if through is None:
                    self.take_in(columns.to(device), work.to(device), state)
                else:
                    through(columns, work)

    @torch.no_grad()
    def take_in(self, columns: Tensor, work: Tensor, state: State) -> None:
        """Forward tokens [3, N]: their ids, places (-1: nobody's) and rows; work: from kernels_prefill.tiles."""
        cache, (tokens, places, owners) = cast(KVState, state), columns

        def attend(layer: int, qkv: Tensor) -> Tensor:
            keys, values = cache.keys[layer], cache.values[layer]
            gains = self.layers[layer].gains
            kernels_prefill.store(qkv, self.shape, self.rotary, places, owners, keys, values, gains)
            return kernels_prefill.attend(qkv, self.shape, places, work, keys, values)

        self._through(self._embedded(tokens[:, None], places[:, None]), attend)

    def _embedded(self, tokens: Tensor, places: Tensor) -> Tensor:
        table = self._of.position_embedding if isinstance(self._of, Decoder) else None
        added = table.weight if isinstance(table, Learned) else None
        return kernels.embed(tokens, self._of.embed.weight, places, added)

    def _through(self, x: Tensor, attend: Callable[[int, Tensor], Tensor]) -> Tensor:
        """All blocks; x [M, D] is overwritten. attend: layer and qkv [M, ..] -> [M, heads * head_dim]."""
        squares = None
        for number, layer in enumerate(self.layers):
            x, squares = layer.forward(x, number, attend, squares)
        return x


def _packed(group: list[tuple[Sequence[int], int, int]]) -> tuple[Tensor, Tensor]:
    """Columns and work for `take_in`, of ids each with its row and first position. By numpy: torch.tensor takes five
    times as long for a list, and torch's threads take long to wake up."""
    lengths = [len(ids) for ids, _, _ in group]
    total, rows = sum(lengths), [row for _, row, _ in group]
    ahead = np.cumsum(lengths) - lengths - [start for _, _, start in group]  # of a token's place in the pack
    ids = np.fromiter(chain.from_iterable(ids for ids, _, _ in group), np.int64, total)
    columns = np.stack([ids, np.arange(total) - np.repeat(ahead, lengths), np.repeat(rows, lengths)])
    return torch.from_numpy(columns), kernels_prefill.tiles(lengths, rows)


class Joined:
    """One block."""

    def __init__(self, block: Block, rms: bool, kind: str) -> None:
        a, f = block.attention, block.feedforward
        self.block, self.rms, self.kind = block, rms, kind
        self.norms = (block.attention_norm, block.feedforward_norm)
        self.eps = block.attention_norm.eps or 0.0
        normed = isinstance(a.q_norm, RMSNorm) and isinstance(a.k_norm, RMSNorm)
        self.gains = (cast(Tensor, a.q_norm.weight), cast(Tensor, a.k_norm.weight)) if normed else None
        self.o, self.down = a.o, cast(SwiGLU | SwiGLUSingle | Plain, f).down
        self.qkv, self.up = torch.cat(self._qkv()).detach(), torch.cat(self._ups()).detach()
        self.qkv_bias = torch.cat((a.q.bias, a.k.bias, a.v.bias)).detach() if a.q.bias is not None else None
        self.up_bias = _bias(f)

    def _qkv(self) -> list[Tensor]:
        a = self.block.attention
        return [a.q.weight, a.k.weight, a.v.weight]

    def _ups(self) -> list[Tensor]:
        f = self.block.feedforward
        if isinstance(f, SwiGLU):
            return [f.gate.weight, f.up.weight]
        return [f.gate_up.weight if isinstance(f, SwiGLUSingle) else cast(Plain, f).up.weight]

    @torch.no_grad()
    def refresh(self) -> None:
        a = self.block.attention
        _join(self._qkv(), self.qkv, self.norms[0].weight if self.rms else None)
        _join(self._ups(), self.up, self.norms[1].weight if self.rms else None)
        if self.qkv_bias is not None:
            torch.cat((a.q.bias, a.k.bias, a.v.bias), out=self.qkv_bias)

    def own(self, rows: int) -> bool:
        """Whether our products of normed vectors are the faster ones for so many rows, from two on."""
        width = self.o.out_features
        return self.rms and width < kernels.NARROW and 1 < rows and kernels.few(rows, width)

    def chains(self, rows: int) -> bool:
        """Whether o's and down's are ours too. Not in TF32, so that they round as the learner's do."""
        return self.own(rows) and (self.o.weight.dtype != torch.float32 or kernels.precision() == "ieee")

    def forward(
        self, x: Tensor, number: int, attend: Callable[[int, Tensor], Tensor], squares: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """x [M, D], which is overwritten; squares: as kernels.linear keeps them of x, where it does."""
        qkv = self._normed(x, 0, self.qkv, self.qkv_bias, squares=squares)
        x, squares = self._added(x, attend(number, qkv), self.o)
        gated = self.kind in ("swiglu", "swiglu-single")
        if gated and self.rms and kernels.few(*x.shape):
            inner = kernels.linear(x, self.up, self.eps, bias=self.up_bias, gate=True, squares=squares)
        else:
            inner = kernels.active(self._normed(x, 1, self.up, self.up_bias, gated, squares), self.kind)
        return self._added(x, inner, self.down)

    def _normed(
        self,
        x: Tensor,
        which: int,
        weight: Tensor,
        bias: Tensor | None,
        large: bool = False,
        squares: Tensor | None = None,
    ) -> Tensor:
        """norm(x) weight^T + bias."""
        if self.rms and not large and (len(x) == 1 or self.own(len(x))):
            return kernels.linear(x, weight, self.eps, bias=bias, squares=squares)
        norm = self.norms[which]
        shift = norm.bias if isinstance(norm, nn.LayerNorm) else None
        x = kernels.norm(x, self.eps, None if self.rms else norm.weight, shift)
        return kernels.linear(x, weight, bias=bias) if len(x) == 1 else F.linear(x, weight, bias)

    def _added(self, x: Tensor, inner: Tensor, matrix: nn.Linear) -> tuple[Tensor, Tensor | None]:
        """x + inner weight^T + bias, with the squares that the next norm needs where our own product is as fast."""
        M, D = x.shape
        if M == 1:
            return kernels.linear(inner, matrix.weight, bias=matrix.bias, add=x), None
        if self.chains(M):
            squares = torch.empty(M, kernels.pieces(D), device=x.device)
            return kernels.linear(inner, matrix.weight, bias=matrix.bias, add=x, squares=squares), squares
        x.addmm_(inner, matrix.weight.t())
        return x if matrix.bias is None else x.add_(matrix.bias), None


def _join(parts: Sequence[Tensor], out: Tensor, gain: Tensor | None) -> None:
    """Matrices one below the other, times gain."""
    for part, to in zip(parts, torch.split(out, [len(part) for part in parts])):
        if gain is None:
            to.copy_(part)
        else:
            torch.mul(part, gain, out=to)


def _bias(f: nn.Module) -> Tensor | None:
    """Of a feed-forward's first product."""
    if isinstance(f, SwiGLU):
        return None
    return f.gate_up.bias if isinstance(f, SwiGLUSingle) else cast(Plain, f).up.bias
