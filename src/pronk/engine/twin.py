"""A faster twin of a model, for generation on a CPU: the same numbers from fewer and quicker steps; it never trains."""

import math
import mmap
import sys
from dataclasses import fields
from typing import TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pronk.models.attention import Attention, attend, visible
from pronk.models.build import Model
from pronk.models.config import ModelConfig
from pronk.models.decoder import Block, Decoder
from pronk.models.feedforward import SwiGLU, SwiGLUSingle
from pronk.models.heads import Head, Output
from pronk.models.positions import Rotary, Unplaced
from pronk.models.state import Rows, State

# What a twin is written for: a model of other parts, or with another knob turned, runs itself.
PARTS = {Decoder, Block, Attention, SwiGLU, SwiGLUSingle, Rotary, Unplaced, Head}
PARTS |= {nn.Identity, nn.ModuleList, nn.Linear, nn.Embedding, nn.RMSNorm, nn.Dropout}
FEW = 16  # rows of a product from which oneDNN is quicker than MKL (LOG.md)
KNOBS = {
    *("preset", "family", "vocab", "width", "layers", "heads", "kv_heads", "head_dim", "feedforward", "ffn_dim"),
    *("ffn_dim_multiplier", "multiple_of", "context", "norm_eps", "rope_theta", "rope_factor", "rope_low", "rope_high"),
    *("rope_original", "tied", "dropout"),
}


def quicken(model: Model, runs: "Model | Twin | None" = None) -> "Model | Twin":
    """What to run in place of `model`, with the weights that it has now: a twin, or the model itself where no twin
    is known. runs: what ran the last time; a twin of this model is refreshed and returned."""
    if not known(model):
        return model
    twin = runs if isinstance(runs, Twin) and runs.fits(model) else Twin(model)
    twin.refresh()
    return twin


def known(model: nn.Module) -> TypeGuard[Decoder]:
    """Whether a twin gives what this model gives: a plain Llama on a CPU, with nothing wrapped, hooked or added."""
    if not isinstance(model, Decoder) or model.embed.weight.device.type != "cpu":
        return False
    config = model.config
    if config.family != "decoder" or config.feedforward not in ("swiglu", "swiglu-single"):
        return False
    if any(getattr(config, f.name) != f.default for f in fields(config) if f.name not in KNOBS):
        return False
    return type(model.head) is Head and all(_plain(name, module) for name, module in model.named_modules())


def _plain(name: str, module: nn.Module) -> bool:
    biased = isinstance(module, nn.Linear) and module.bias is not None and not name.endswith(("gate_up", "down"))
    return type(module) in PARTS and not (biased or module._forward_hooks or module._forward_pre_hooks)


class Twin:
    """Runs a decoder's own weights, with q, k and v joined.

    Queries and keys are kept with the dimensions that turn together, i and i + half, side by side: a rotation is then
    one product of complex numbers. Both have the same order, so attention's scores are the model's.
    """

    def __init__(self, model: Decoder) -> None:
        self._of, self.config, self.dtype = model, model.config, model.embed.weight.dtype

    def fits(self, model: Decoder) -> bool:
        """Whether this is the twin of `model` once refreshed, with states that stay as they are."""
        return model is self._of and model.embed.weight.dtype == self.dtype

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the weights as they are now. All but the joined ones are the model's own memory."""
        model, products = self._of, Products(self.dtype)
        rotary, norm = cast(Rotary, model.rotary), cast(nn.RMSNorm, model.norm)
        self.embed, self.norm, self.cosine, self.sine = model.embed.weight, norm.weight, rotary.cosine, rotary.sine
        self.layers = [Layer(cast(Block, block), self.config, products) for block in model.blocks]
        self.head = TwinHead(model.head, products)

    def new_state(self, rows: int, length: int) -> "TwinState":
        """Room for the keys and values of `rows` sequences of up to `length` tokens, in float32 at least: products of
        bfloat16 copy a state of which they need a part."""
        c, dtype = self.config, torch.promote_types(self.dtype, torch.float32)
        return TwinState((c.layers, rows, c.key_heads, length + 1, c.head_size), dtype)

    @torch.no_grad()
    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        state: State | None = None,
    ) -> Output:
        """As Decoder.forward, without gradients."""
        c, places = self.config, torch.arange(tokens.shape[1]).expand_as(tokens) if positions is None else positions
        at = places.clamp(min=0).flatten()
        turns = torch.complex(self.cosine[at].float(), self.sine[at].float())[:, None]  # [N, 1, head_dim / 2]
        attend = Attend(c, turns, places, documents, cast(TwinState | None, state))
        x = F.embedding(tokens.flatten(), self.embed)  # [N, D]; N = B T
        for number, layer in enumerate(self.layers):
            x = layer.forward(x, number, attend)
        return Output(F.rms_norm(x, self.norm.shape, self.norm, c.norm_eps).view(*tokens.shape, -1), self.head)


class TwinHead(Head):
    """The model's head, by the twin's products."""

    def __init__(self, head: Head, products: "Products") -> None:
        super().__init__(0, 0, cast(nn.Embedding, head))  # shares its weight
        self.products = products

    def forward(self, hidden: Tensor) -> Tensor:
        return self.products.plain(hidden.flatten(0, -2), self.weight).view(*hidden.shape[:-1], -1)


class Layer:
    """One block's weights."""

    def __init__(self, block: Block, config: ModelConfig, products: "Products") -> None:
        a, f = block.attention, block.feedforward
        self.products, self.eps = products, config.norm_eps
        self.attention_norm, self.feedforward_norm = block.attention_norm.weight, block.feedforward_norm.weight
        turned = torch.cat((a.q.weight, a.k.weight)).view(-1, 2, config.head_size // 2, config.width).transpose(1, 2)
        self.qkv, self.o = torch.cat((turned.flatten(0, 2), a.v.weight)), a.o.weight
        if isinstance(f, SwiGLUSingle):
            self.gate, self.up = f.gate_up.weight.chunk(2)
            self.gate_bias, self.up_bias = f.gate_up.bias.chunk(2)
        else:
            f = cast(SwiGLU, f)
            self.gate, self.up = f.gate.weight, f.up.weight
            self.gate_bias, self.up_bias = f.gate.bias, f.up.bias
        self.down, self.down_bias = f.down.weight, f.down.bias

    def forward(self, x: Tensor, number: int, attend: "Attend") -> Tensor:
        """x [N, D] -> [N, D], as Block.forward."""
        products = self.products
        y = F.rms_norm(x, self.attention_norm.shape, self.attention_norm, self.eps)
        x = products.plus(x, attend(number, products.plain(y, self.qkv)), self.o)
        y = F.rms_norm(x, self.feedforward_norm.shape, self.feedforward_norm, self.eps)
        gate = products.silu(y, self.gate, self.gate_bias)
        return products.plus(x, products.times(gate, y, self.up, self.up_bias), self.down, self.down_bias)


class Attend:
    """What attention needs in one forward, the same for all layers."""

    def __init__(
        self, config: ModelConfig, turns: Tensor, places: Tensor, documents: Tensor | None, state: "TwinState | None"
    ) -> None:
        """turns [N, 1, K / 2]: complex numbers of angle 1; places [B, T]: positions, below 0 = padding."""
        (B, T), H, G, K = places.shape, config.heads, config.key_heads, config.head_size
        self.shape, self.turns, self.state, self.alone = (B, T, H, G, K), turns, state, False
        if state is not None:
            self.slots = state.slots(places)
        if state is None or state.fresh:
            self.mask = visible(None, documents, None, T)
            return
        self.keys, self.values = state.read()
        unseen = torch.arange(state.span) > places.clamp(min=0)[:, :, None]  # [B, T, S]
        self.mask, self.alone = ~unseen[:, None], T == 1
        if self.alone:
            bias = torch.zeros(unseen.shape, dtype=self.keys[0].dtype).masked_fill_(unseen, -math.inf)
            self.bias = bias[:, None].expand(B, G, H // G, -1).reshape(B * G, H // G, -1)

    def __call__(self, layer: int, joined: Tensor) -> Tensor:
        """Queries, keys and values [N, (H + 2 G) K] -> what the heads read [N, H K]."""
        B, T, H, G, K = self.shape
        whole = joined.to(torch.promote_types(joined.dtype, torch.float32)).view(B * T, H + 2 * G, K)
        pairs = torch.view_as_complex(whole[:, : H + G].view(B * T, H + G, K // 2, 2))
        turned = torch.view_as_real(pairs * self.turns).view(B * T, H + G, K)
        q, k, v = turned[:, :H], turned[:, H:], whole[:, H + G :]
        if self.state is not None:
            self.state.write(layer, self.slots, k, v)
        if self.alone:  # plain products read the state twice as fast as torch's attention
            scores = torch.baddbmm(self.bias, q.reshape(B * G, H // G, K), self.keys[layer].mT, alpha=K**-0.5)
            return torch.bmm(scores.softmax(-1), self.values[layer]).view(B, H * K).to(joined.dtype)
        q, k, v = (x.view(B, T, -1, K).transpose(1, 2) for x in (q, k, v))
        if self.state is not None and not self.state.fresh:
            k, v = (x[layer].view(B, G, -1, K) for x in (self.keys, self.values))
        return attend(q, k, v, self.mask).transpose(1, 2).reshape(B * T, H * K).to(joined.dtype)


class TwinState(State):
    """Keys and values [layers, rows, heads, length + 1, head_dim] each; the last column swallows padding."""

    def __init__(self, shape: tuple[int, int, int, int, int], dtype: torch.dtype) -> None:
        self.keys, self.values = _on_huge_pages((2, *shape), dtype)
        self.flat_keys, self.flat_values = self.keys.flatten(1, 3).unbind(), self.values.flatten(1, 3).unbind()
        self.rows, self.span, self.fresh = slice(0, shape[1]), shape[3] - 1, False

    def select(self, rows: Rows, span: int, fresh: bool = False) -> "TwinState":
        part = object.__new__(TwinState)
        part.keys, part.values, part.flat_keys, part.flat_values = (
            self.keys,
            self.values,
            self.flat_keys,
            self.flat_values,
        )
        part.rows, part.span, part.fresh = rows, span, fresh
        return part

    def copy(self, source: Tensor, target: Tensor) -> None:
        for whole in (self.keys, self.values):
            whole[:, target, :, : self.span] = whole[:, source, :, : self.span]

    def slots(self, positions: Tensor) -> Tensor:
        """Places of the selected rows' positions [B, T], for each head, in a layer's memory: [B T heads]."""
        heads, columns = self.keys.shape[2:4]
        rows = torch.arange(self.rows.start, self.rows.stop) if isinstance(self.rows, slice) else self.rows
        base = torch.arange(0, heads * columns, columns) + rows[:, None] * (heads * columns)
        return (base[:, None] + torch.where(positions < 0, columns - 1, positions)[:, :, None]).flatten()

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys and values [B T, heads, head_dim]."""
        self.flat_keys[layer].index_copy_(0, slots, keys.flatten(0, 1))
        self.flat_values[layer].index_copy_(0, slots, values.flatten(0, 1))

    def read(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Keys and values of the selected rows, for each layer [B heads, span, head_dim]; of a slice without a copy."""
        found = (whole[:, self.rows].flatten(1, 2)[:, :, : self.span].unbind() for whole in (self.keys, self.values))
        return next(found), next(found)


def _on_huge_pages(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros. A step reads all of a state once: with pages of 4 KB that takes twice as long, in a virtual machine."""
    if sys.platform != "linux":
        return torch.zeros(shape, dtype=dtype)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class Products:
    """x w^T + b with what follows it in the same call, by oneDNN where it takes the type; few rows by torch's own."""

    def __init__(self, dtype: torch.dtype) -> None:
        built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        wide = built and dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        self.fused = built and (dtype == torch.float32 or wide)

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.fused and len(x) >= FEW:
            return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))
        return F.linear(x, weight, bias)

    def silu(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.fused and len(x) >= FEW:
            return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "swish", [], ""))
        return F.silu(F.linear(x, weight, bias))

    def times(self, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """y * (x w^T + b)"""
        if self.fused and len(x) >= FEW:
            return cast(Tensor, torch.ops.mkldnn._linear_pointwise.binary(x, y, weight, bias, "mul"))
        return F.linear(x, weight, bias).mul_(y)

    def plus(self, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """y + (x w^T + b)"""
        if self.fused and len(x) >= FEW:
            return cast(Tensor, torch.ops.mkldnn._linear_pointwise.binary(x, y, weight, bias, "add"))
        return F.linear(x, weight, bias).add_(y)
